"""Secure aggregation: ring, masks and the two roles as state machines."""
