"""The driver: prepares a run, runs the rounds, collects what sites send, keeps checkpoints."""
