"""Attacks on a training run, made by its own data owners to see what its messages and its model give away."""
