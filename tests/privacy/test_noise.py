from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from primia.privacy.noise import SecureGenerator, _draw, _proposal

COUNT = 400_001


def test_a_key_repeats_the_stream_and_no_key_does_not() -> None:
    same = [SecureGenerator(bytes(32)) for _ in range(2)]
    assert np.array_equal(same[0].rounded_gaussian(1001, 200.0), same[1].rounded_gaussian(1001, 200.0))
    assert np.array_equal(same[0].words(7), same[1].words(7))
    assert not np.array_equal(SecureGenerator().words(4), SecureGenerator().words(4))


@pytest.mark.parametrize("deviation", [0.7, 2.5, 16.0, 31.99])
def test_each_integer_has_the_probability_of_a_rounded_gaussian(deviation: float, generator: SecureGenerator) -> None:
    """By a chi-square test: below a p of 1e-4 only with a wrong distribution."""
    noise = generator.rounded_gaussian(COUNT, deviation)
    reach = int(4 * deviation) + 1
    values = np.arange(-reach, reach + 1)
    expected = stats.norm.cdf((values + 0.5) / deviation) - stats.norm.cdf((values - 0.5) / deviation)
    counts = np.array([np.count_nonzero(noise == value) for value in values])
    chosen = expected * COUNT > 20
    assert noise.dtype == np.int64 and chosen.sum() > 3
    assert stats.chisquare(counts[chosen], expected[chosen] / expected[chosen].sum() * counts[chosen].sum()).pvalue > 1e-4


@pytest.mark.parametrize("deviation", [3.3e3, 2.0**20 * 1.07, 2.0**38])
def test_wide_noise_is_normal_by_a_chi_square_test(deviation: float, generator: SecureGenerator) -> None:
    """200 bins of equal probability, the outermost from 2.6 deviations on."""
    noise = generator.rounded_gaussian(COUNT, deviation)
    counts, _ = np.histogram(noise, deviation * stats.norm.ppf(np.linspace(0, 1, 201)))
    assert counts.sum() == COUNT
    assert stats.chisquare(counts).pvalue > 1e-4


def test_moments_up_to_the_fourth(generator: SecureGenerator) -> None:
    noise = generator.rounded_gaussian(COUNT, 2.0**20) / 2.0**20
    deviations = np.sqrt(np.array([1, 2, 15, 96]) / COUNT)  # of the means of z, z^2, z^3 and z^4
    moments = np.array([np.mean(noise**power) for power in (1, 2, 3, 4)])
    assert (np.abs(moments - [0, 1, 0, 3]) < 4.5 * deviations).all()


def test_neighbouring_draws_are_uncorrelated(generator: SecureGenerator) -> None:
    noise = generator.rounded_gaussian(2**18, 1000.0).astype(np.float64)
    for gap in (1, 2, 8191, 8192):
        for power in (1, 2):
            correlation = np.corrcoef(noise[gap:] ** power, noise[:-gap] ** power)[0, 1]
            assert abs(correlation) < 5 / np.sqrt(noise.size - gap)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_low_bits_are_uniform_far_out_as_well(bits: int, generator: SecureGenerator) -> None:
    """Noise in float32 of this size would be all multiples of 8 from 2^27 on."""
    noise = generator.rounded_gaussian(COUNT, 2.0**27)
    for part in (noise, noise[np.abs(noise) > 2**28]):
        counts = np.bincount(part & (2**bits - 1), minlength=2**bits)
        assert len(part) > 10_000 and stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("count", [0, 1, 2, 2**13 - 1, 2**14 + 1])
def test_any_count(count: int, generator: SecureGenerator) -> None:
    noise = generator.rounded_gaussian(count, 2.0**40)
    assert noise.shape == (count,) and noise.dtype == np.int64
    assert len(np.unique(noise)) >= count - 10, "no part is repeated"
    assert len(np.unique(generator.words(count))) == count


def test_no_deviation_is_no_noise(generator: SecureGenerator) -> None:
    assert not generator.rounded_gaussian(5, 0.0).any()


@pytest.mark.parametrize("deviation", [1e-4, 2.0**41, float("nan"), -1.0])
def test_a_deviation_that_cannot_be_drawn_is_refused(deviation: float, generator: SecureGenerator) -> None:
    with pytest.raises(ValueError, match="can be drawn"):
        generator.rounded_gaussian(5, deviation)


# --- every output is reachable from every neighbouring input ------------------------------------------------------------------


def test_no_integer_is_left_out_in_reach(generator: SecureGenerator) -> None:
    """Of an output y and two inputs x the noise y - x is drawn for both, so no low bits tell which it was."""
    noise = generator.rounded_gaussian(COUNT, 400.0)
    missing = set(range(-1000, 1001)) - set(noise.tolist())  # the rarest is expected 17.5 times: all are met but with p < 1e-4
    assert not missing


@pytest.mark.parametrize("deviation", [0.7, 16.0, 1000.0, 2.0**20 * 1.3, 2.0**40])
def test_every_integer_within_twelve_deviations_has_words_that_draw_it(deviation: float) -> None:
    """By construction: each bin has a weight, each place in it a chance above 0, and places are finer than integers."""
    proposal = _proposal(deviation)
    assert (np.diff(proposal.ends, prepend=0) == proposal.weights).all() and (proposal.weights > 0).all()
    assert proposal.ends[-1] <= 2**24 and len(proposal.ends) * 2.0**proposal.width_bits >= 12.5 * deviation
    assert proposal.width_bits < 39 - 1
    for value in (0, 1, round(deviation), round(6 * deviation), round(12 * deviation)):
        place = value << (39 - proposal.width_bits) if proposal.width_bits <= 39 else value
        chosen, within = place >> 39, place & (2**39 - 1)
        start = int(proposal.ends[chosen - 1]) if chosen else 0
        for sign in (0, 1):
            word = start << 40 | sign << 39 | within
            assert proposal.rounded(word) == (-value if sign else value)
            low, high = proposal.chance(word, within, 0)
            assert 0 < low <= high <= 1


@pytest.mark.parametrize("deviation", [0.7, 16.0, 2.0**20 * 1.3])
def test_no_chance_of_acceptance_is_above_one_and_sure_words_are_accepted_anywhere(deviation: float) -> None:
    """What makes rejection exact, in rational arithmetic: the proposal lies above the density in every bin."""
    proposal = _proposal(deviation)
    for number in range(0, len(proposal.ends), 7):
        start = int(proposal.ends[number - 1]) if number else 0
        _, most = proposal.chance(start << 40, 0, 0)
        least, _ = proposal.chance(start << 40, 2**39 - 1, 0)
        assert most <= 1
        assert Fraction(int(proposal.sure[number]), 2**64) <= Fraction(least)


def test_what_float64_cannot_decide_is_decided_by_more_bits(generator: SecureGenerator) -> None:
    """Thresholds on the very edge: accepted about as often as not, and as the exact comparison has it a bit away from it."""
    proposal = _proposal(1000.0)
    word = (int(proposal.ends[9]) << 40) | 12345
    low, high = proposal.chance(word, 12345, 0)
    edge = int(low * Decimal(2) ** 64)
    width = int((high - low) * Decimal(2) ** 64) + 2
    assert generator._decided(word, edge - 2, proposal) and not generator._decided(word, edge + width + 2, proposal)
    for threshold in (edge, edge + width // 2):
        assert _draw(np.array([word, threshold], np.uint64), 0, np.empty(1, np.int64), *proposal.tables) == (0, 2, True)
    outcomes = [generator._decided(word, edge + width // 2, proposal) for _ in range(200)]
    assert 40 < sum(outcomes) < 160


def test_the_compiled_loop_agrees_with_the_exact_comparison(generator: SecureGenerator) -> None:
    """On 3,000 random pairs of words, a third of them beyond what is accepted at once."""
    proposal, words = _proposal(777.7), SecureGenerator(bytes(31) + b"x").words(6000)
    out = np.empty(1, np.int64)
    for first, second in words.reshape(-1, 2):
        done, _, undecided = _draw(np.array([first, second]), 0, out, *proposal.tables)
        proposes = int(first) >> 40 < int(proposal.ends[-1])
        assert not undecided and (done == 1) == (proposes and generator._decided(int(first), int(second), proposal))
        assert not done or out[0] == proposal.rounded(int(first))


def test_words_are_uniform(generator: SecureGenerator) -> None:
    words = generator.words(COUNT)
    for shift in (56, 0):
        counts = np.bincount((words >> np.uint64(shift) & np.uint64(255)).astype(int), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-4
