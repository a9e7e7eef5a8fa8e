"""The project's exceptions, one tree.

Every :class:`PrimiaError` carries one line that says what is wrong, where, and what to do. The
command line prints that line and exits with :attr:`PrimiaError.exit_code`; anything else that
escapes is a bug and shows its traceback.
"""

from __future__ import annotations

_LONGEST = 2000
"""Characters of a message."""


class PrimiaError(Exception):
    """Base of all errors that a user can cause and mend."""

    exit_code = 1

    def __str__(self) -> str:
        """The line: what it quotes of others' files may hold line breaks, and signs that steer a terminal."""
        text = super().__str__()
        shown = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text[:_LONGEST])
        return shown if len(text) <= _LONGEST else f"{shown} ..."


class ConfigError(PrimiaError):
    """A setting is unknown, of the wrong type, out of bounds or without meaning in this mode."""

    exit_code = 2


class DataError(PrimiaError):
    """A data folder, an image or a shard cannot be used."""

    exit_code = 3


class LoneImage(DataError):
    """A batch has one image, and BatchNorm on a map of one pixel needs more."""


class ModelError(PrimiaError):
    """A model cannot be built, loaded or fitted to the input."""

    exit_code = 4


class RunError(PrimiaError):
    """A run folder cannot be made, written, resumed or read."""

    exit_code = 5


class TrainingError(PrimiaError):
    """Local training cannot go on."""

    exit_code = 6


class NonFiniteLoss(TrainingError):
    """The loss, the parameters or the outputs became NaN or infinite."""


class FederationError(PrimiaError):
    """A round cannot be completed: too few sites, or a site failed in a way that repeats."""

    exit_code = 7


class ClusterError(PrimiaError):
    """A Ray cluster cannot be started or reached."""

    exit_code = 8


class ProtocolError(PrimiaError):
    """A party of encrypted inference died, spoke out of turn, or was sent what is not due."""

    exit_code = 9


class KeyReuseError(ProtocolError):
    """One-time keys were asked for a second time, or are not those of this model."""


class PrivacyError(PrimiaError):
    """A privacy budget is spent, cannot be met, or would be voided by another setting."""

    exit_code = 10


class BudgetSpent(PrivacyError):
    """A release would take a site's epsilon above what the run or the data's owner allows."""


class ConsentError(PrimiaError):
    """A site's owner has not granted this, or the site's box cannot be used."""

    exit_code = 11


class NotGranted(ConsentError):
    """A site's owner has never granted this federation, or does not any more."""


class ProtectionError(ConsentError):
    """A site's owner asks for more protection than a run gives."""


class UnknownPartner(ConsentError):
    """A masked sum would be with sites whose keys the owner has not pinned, or that the grant does not name."""


class DeltaTooLarge(PrivacyError):
    """A delta at which one of a site's units could be published in full."""
