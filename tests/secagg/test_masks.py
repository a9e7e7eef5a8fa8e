"""Masks: the AES-CTR stream of a key, whatever the pieces and threads, and what takes them away again."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from primia.secagg.masks import Mask, apply_masks, mask_key
from primia.secagg.ring import Layout, RingVector

KEY = bytes(range(16))


@pytest.mark.parametrize("layout", [Layout(0, 4), Layout(5, 0), Layout(5, 3), Layout(70_001, 3), Layout(3, 40_000)])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_mask_is_the_counter_mode_stream(layout: Layout, threads: int) -> None:
    vector = RingVector.zeros(layout)
    apply_masks(vector, [Mask(KEY)], threads)
    stream = Cipher(algorithms.AES(KEY), modes.CTR(bytes(16))).encryptor().update(bytes(layout.nbytes))
    assert vector.data.tobytes() == stream


def test_masks_of_both_signs_cancel() -> None:
    layout = Layout(1000, 7)
    vector = RingVector.zeros(layout)
    vector.narrow[:] = np.arange(1000)
    apply_masks(vector, [Mask(KEY), Mask(KEY[::-1])])
    assert np.count_nonzero(vector.narrow == np.arange(1000)) < 5
    apply_masks(vector, [Mask(KEY[::-1], negative=True), Mask(KEY, negative=True)], threads=2)
    assert vector.narrow.tolist() == list(range(1000)) and not vector.wide.any()


def test_masked_bytes_are_uniform() -> None:
    """Chi-square over the 256 byte values of a constant vector; 330 is the 99.9 % point of 255 degrees of freedom."""
    vector = RingVector.zeros(Layout(200_000, 0))
    apply_masks(vector, [Mask(mask_key(b"secret", b"own", b"aggregation"))])
    counts = np.bincount(vector.data, minlength=256)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 330


def test_keys_differ_by_purpose_and_aggregation() -> None:
    keys = {mask_key(secret, purpose, run) for secret in (b"a", b"b") for purpose in (b"own", b"pair") for run in (b"1", b"2")}
    assert len(keys) == 8 and {len(key) for key in keys} == {16}
