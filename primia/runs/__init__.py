"""The record of a run: its folder, its rounds, its summary, and how they are read."""
