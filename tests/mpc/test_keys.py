from __future__ import annotations

import numpy as np
import pytest

from primia.errors import KeyReuseError, ProtocolError
from primia.mpc.dpf_layout import PAD
from primia.mpc.keys import BatchKeys, correction_shapes, stage_key_shapes
from primia.mpc.messages import Kind, Message


def record(stage: int, batch: int = 9, bits: int = 12, count: int = 3) -> Message:
    return Message(Kind.STAGE_KEYS, batch, stage, tuple(np.full(shape, stage, dtype) for dtype, shape in stage_key_shapes(bits, count)))


def test_records_are_taken_in_order_and_once() -> None:
    keys = BatchKeys(9, iter([record(1), record(2)]))
    assert [int(keys.comparison(stage, 12, 3).leaf.max()) for stage in (1, 2)] == [1, 2]
    with pytest.raises(KeyReuseError, match="keys of batch 0000000000000009 are used up or cut short"):
        keys.comparison(1, 12, 3)


@pytest.mark.parametrize("wrong", [record(2), record(1, batch=8), record(1, bits=13), record(1, count=PAD + 1)])
def test_other_records_are_refused(wrong: Message) -> None:
    with pytest.raises(ProtocolError, match=r"in the keys, batch 0000000000000009.* is due"):
        BatchKeys(9, iter([wrong])).comparison(1, 12, 3)


def test_shapes_of_records() -> None:
    assert stage_key_shapes(12, PAD + 1) == ((np.uint64, (4, 2 * PAD, 2)), (np.uint64, (2, 2 * PAD, 2)), (np.uint8, (1, 2 * PAD)))
    assert correction_shapes(np.uint32, 4, 7) == ((np.uint32, (5, 7)), (np.uint8, (2, 7)))
