"""What the three parties say to each other, and how a party's procedure asks for it.

A procedure is a generator: it yields :class:`Send` and :class:`Receive`, and is sent the :class:`Message` that it asked for.
It knows nothing of processes, threads or sockets; :mod:`primia.mpc.local` runs procedures in one process, and
:mod:`primia.inference` over Ray actors and over TLS.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from primia.errors import ProtocolError

Array = NDArray[Any]
Result = TypeVar("Result")


class Role(IntEnum):
    """The parties of the protocol."""

    MODEL_OWNER = 0
    DATA_OWNER = 1
    DEALER = 2

    @property
    def label(self) -> str:
        """The name that people read."""
        return self.name.lower().replace("_", " ")


class Phase(IntEnum):
    """Conversations that run beside each other; within one, messages between two parties keep their order."""

    SETUP = 0
    PREPROCESSING = 1
    ONLINE = 2
    CONTROL = 3


class Kind(IntEnum):
    """What a message carries; its first digit is its :class:`Phase`."""

    PLAN = 0
    WEIGHT_SEED = 1
    MASKED_WEIGHTS = 2
    BATCH = 10
    LINEAR_KEYS = 11
    LINEAR_SHARE = 12
    STAGE_KEYS = 13
    STAGE_CORRECTIONS = 14
    INPUT = 20
    MASKED_VALUES = 21
    SIGN_SHARE = 22
    STAGE_OUTPUT = 23
    RESULT = 24
    START = 30
    REQUEST = 31
    FINISH = 32
    FAILED = 33

    @property
    def phase(self) -> Phase:
        """The conversation that it belongs to."""
        return Phase(self // 10)


@dataclass(frozen=True, eq=False)
class Message:
    """``arrays`` of kind ``kind`` for stage ``stage`` of batch ``batch`` (a random 64-bit number; 0 for what belongs to no batch).

    Arrays are C-contiguous, of dtype uint8, uint32 or uint64; text travels as uint8.
    """

    kind: Kind
    batch: int
    stage: int
    arrays: tuple[Array, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def conversation(self) -> tuple[int, Phase]:
        """Batch and phase: messages of different conversations may overtake each other."""
        return self.batch, self.kind.phase


@dataclass(frozen=True, eq=False)
class Send:
    """Hand ``message`` to the party ``to``; goes on at once."""

    to: Role
    message: Message


@dataclass(frozen=True)
class Receive:
    """Wait for the next message of ``sender`` in the conversation ``(batch, phase)``."""

    sender: Role
    batch: int
    phase: Phase


Procedure = Generator[Send | Receive, Message, Result]
"""A party's part in a conversation, and what it returns at the end."""


Shapes = tuple[tuple[Any, tuple[int, ...]], ...]
"""Dtype and shape of each array of a message."""


def expect(sender: Role, kind: Kind, batch: int, stage: int, shapes: Shapes | None) -> Procedure[Message]:
    """Receive one message that must be just this one; see :func:`check`."""
    message = yield Receive(sender, batch, kind.phase)
    check(message, f"from the {sender.label}", kind, batch, stage, shapes)
    return message


def check(message: Message, origin: str, kind: Kind, batch: int, stage: int, shapes: Shapes | None) -> None:
    """Make sure that a message is the one that is due; ``shapes`` None: the caller checks the arrays.

    Raises:
        ProtocolError: it is another one, or its arrays are of another number, type or size.
    """
    here = f"{origin}, batch {batch:016x}"
    if (message.kind, message.batch, message.stage) != (kind, batch, stage):
        raise ProtocolError(
            f"out-of-order message {here}: {message.kind.name} of stage {message.stage}, batch {message.batch:016x}, came where "
            f"{kind.name} of stage {stage} is due; all parties must run the same version and plan"
        )
    found = tuple((array.dtype, array.shape) for array in message.arrays)
    if shapes is not None and found != tuple((np.dtype(dtype), shape) for dtype, shape in shapes):
        raise ProtocolError(f"{kind.name} {here}, stage {stage}: has arrays {_shown(found)} where {_shown(shapes)} is due")


def _shown(shapes: Shapes) -> str:
    return ", ".join(f"{np.dtype(dtype)}{list(shape)}" for dtype, shape in shapes) or "none"
