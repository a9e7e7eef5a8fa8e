"""A privacy account that several runs share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from primia.privacy.spend import Limit


@dataclass(frozen=True)
class Account:
    """A privacy account over several runs: ``folder`` holds the ledgers of sites without a box, ``max_epsilon`` is what no site exceeds."""

    folder: Path
    max_epsilon: float | None

    def limit(self) -> Limit | None:
        """``max_epsilon`` as a site's limit over all runs."""
        if self.max_epsilon is None:
            return None
        return Limit(self.max_epsilon, "the search (search.max_epsilon)", "raise it, or search with fewer trials")
