"""The search space: its grammar, its domains and its rules."""
