"""Encrypted inference: function secret sharing and the three roles as state machines."""
