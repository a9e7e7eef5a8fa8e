"""Errors of differential privacy."""

from __future__ import annotations

from primia.errors import PrivacyError


class BudgetSpent(PrivacyError):
    """A release would take a site's epsilon above what the run or the data's owner allows."""
