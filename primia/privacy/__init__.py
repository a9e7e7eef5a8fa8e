"""Differential privacy: DP-SGD, accounting, audits."""
