"""Ring vectors: sums modulo 2^32 and 2^64 in one block of bytes."""

from __future__ import annotations

import numpy as np
import pytest

from primia.errors import ProtocolError
from primia.secagg.ring import Layout, RingVector


def test_sums_wrap_each_in_its_own_ring() -> None:
    layout = Layout(narrow=3, wide=1)
    total, one = RingVector.zeros(layout), RingVector.zeros(layout)
    one.narrow[:] = (2**32 - 1, 2**31, 5)
    one.wide[:] = 2**64 - 1
    for _ in range(2):
        total.add_(one)
    assert total.narrow.tolist() == [2**32 - 2, 0, 10] and total.wide.tolist() == [2**64 - 2]


def test_the_parts_are_views_of_one_block() -> None:
    layout = Layout(narrow=5, wide=3)
    vector = RingVector.zeros(layout)
    assert vector.nbytes == layout.nbytes == 4 * 8 + 5 * 4, "three wide elements are padded to four"
    vector.wide[:], vector.narrow[:] = 1, 2
    assert np.count_nonzero(vector.data) == 8


@pytest.mark.parametrize(
    "vector",
    [
        RingVector.zeros(Layout(6, 3)),
        RingVector(Layout(5, 3), np.zeros(51, np.uint8)),
        RingVector(Layout(5, 3), np.zeros(52, np.int8)),
        RingVector(Layout(5, 3), np.zeros((2, 26), np.uint8)),
    ],
    ids=["layout", "length", "type", "shape"],
)
def test_a_vector_of_another_form_is_refused(vector: RingVector) -> None:
    with pytest.raises(ProtocolError, match=r"site-1 sent a vector of .* bytes where 52 are due"):
        vector.check(Layout(5, 3), "site-1")


def test_read_only_memory_is_copied() -> None:
    vector = RingVector.zeros(Layout(2, 2))
    assert vector.owned() is vector
    vector.data.flags.writeable = False
    copy = vector.owned()
    copy.narrow[:] = 1
    assert not vector.data.any()
