"""A site: answers the driver's calls, each past the owner's gate, and trains on its own images."""
