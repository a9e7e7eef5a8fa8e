"""Why a site does not do what it is asked for: the kind, in fixed words, which is all that leaves it.

What an error says (numbers, names of files, a traceback) can tell of the site's images, also by whether it is said at all: a driver that
asks again with other settings finds a number by a handful of answers. The words are for the site's own log
(:mod:`primia.federation.site.log`).
"""

from __future__ import annotations

from enum import Enum

from primia.errors import (
    BudgetSpent,
    ConsentError,
    DataError,
    DeltaTooLarge,
    ModelError,
    NotGranted,
    PrivacyError,
    ProtectionError,
    ProtocolError,
    TrainingError,
    UnknownPartner,
)


class Kind(Enum):
    """Kinds of refusals and faults, each with its words; those from ``LOST`` on are the driver's own."""

    NOT_GRANTED = "its owner has not granted this federation, or does not any more; the owner can: primia-ray site grant BOX"
    PROTECTION = (
        "it would be protected less than its owner or this run's settings ask for (secure_aggregation.enabled and site_metrics, "
        "privacy.unit); the site's own log says how"
    )
    PARTNERS = (
        "its owner has not pinned the keys of the other sites of a sum, or has granted sums with others only; the owner can: "
        "primia-ray site pin BOX FILE, or site grant BOX FEDERATION --first-contact"
    )
    CONSENT = "its box cannot be used as it is; the site's own log says why"
    SPENT = "its privacy budget does not allow it: privacy.target_epsilon, search.max_epsilon, or its owner's cap on epsilon"
    DELTA = "privacy.delta is too large for the number of its images or patients, and would protect nobody; leave it empty"
    UNMET = "privacy.target_epsilon cannot be met; raise it, or train fewer rounds"
    UNFIT = "its images cannot be used with these settings; the site's own log says why"
    NON_FINITE = "the loss is no longer finite; lower training.learning_rate"
    PROTOCOL = (
        "it refuses a step of the protocol: other sites, terms or another model than before; bring the same sites back, or start a new run"
    )
    FAILED = "an error stopped it; the site's own log says which"
    LOST = "it did not answer"
    LATE = "it was not ready in time"

    @property
    def is_fatal(self) -> bool:
        """Whether going on without the site would not help."""
        return self is Kind.NON_FINITE

    @property
    def error(self) -> type[Exception] | None:
        """What a run ends with that cannot begin for it; None where it may begin without the site."""
        return _ENDS.get(self)


_ENDS = {Kind.UNFIT: DataError, Kind.UNMET: PrivacyError, Kind.DELTA: PrivacyError, Kind.NON_FINITE: TrainingError}

_KINDS: tuple[tuple[type[Exception], Kind], ...] = (
    (NotGranted, Kind.NOT_GRANTED),
    (ProtectionError, Kind.PROTECTION),
    (UnknownPartner, Kind.PARTNERS),
    (ConsentError, Kind.CONSENT),
    (BudgetSpent, Kind.SPENT),
    (DeltaTooLarge, Kind.DELTA),
    (PrivacyError, Kind.UNMET),
    (DataError, Kind.UNFIT),
    (ModelError, Kind.UNFIT),
    (TrainingError, Kind.NON_FINITE),
    (ProtocolError, Kind.PROTOCOL),
)


def kind_of(error: Exception) -> Kind:
    """The kind of what went wrong, by the class of the error alone, never by its words."""
    return next((kind for of, kind in _KINDS if isinstance(error, of)), Kind.FAILED)
