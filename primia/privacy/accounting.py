"""How much privacy is spent: composition of Poisson-sampled Gaussian mechanisms, and the noise that keeps to a budget.

All statements hold for neighbours that differ by one unit that is there or not.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from scipy.special import log_ndtr

from primia.config.settings import LEAST_NOISE
from primia.errors import PrivacyError
from primia.privacy.spend import Spend as Spend

ORDERS: tuple[float, ...] = (*(1 + tenth / 10 for tenth in range(1, 100)), *range(11, 64), 128, 256, 512, 1024)
"""Orders of Rényi divergence at which spends are known."""

_LARGEST_PRV_EPSILON = 50.0
_RELATIVE_ERROR = 0.002
_SMALLEST_ERROR = 5e-4
_DIGITS = 3
_LARGEST_NOISE = 10.0**5
_USUAL_NOISE = 2.0
_LARGEST_GRID = 2**23
_FEW_MECHANISMS = 4


def epsilon(spends: Iterable[Spend], delta: float, accountant: str) -> float:
    """An upper bound on epsilon at ``delta`` of all ``spends`` together; 0 for none, and never below 0.

    It holds for spends that were fixed ahead; :mod:`primia.privacy.filter` bounds those that are chosen by earlier results.

    ``rdp``: Rényi differential privacy (Mironov et al., 2019, section 3.3; converted by Balle et al., 2020, theorem 21).
    ``prv``: numerical composition (Gopi et al., NeurIPS 2021), within 0.4 % or 0.001 above the true value; exact where no
    mechanism samples (Balle and Wang, ICML 2018, theorem 8); beyond an epsilon of 50, where its grid ends, the ``rdp`` bound.
    Both by Opacus.
    """
    return _epsilon(_merged(spends), delta, accountant)


def history_epsilon(spends: Iterable[Spend], delta: float, accountant: str, most: int = _FEW_MECHANISMS) -> float:
    """Like :func:`epsilon`, for what many runs have spent: of more than ``most`` different mechanisms the ``rdp`` bound.

    Numerical composition takes about 0.3 s for each mechanism.
    """
    merged = _merged(spends)
    return _epsilon(merged, delta, accountant if len(merged) <= most else "rdp")


@lru_cache(maxsize=4096)
def _epsilon(spends: tuple[Spend, ...], delta: float, accountant: str) -> float:
    if not spends:
        return 0.0
    upper = _rdp_epsilon(spends, delta)
    # Conversions of a small loss at a large delta come out below 0, where epsilon = 0 is what they prove.
    return max(0.0, upper if accountant == "rdp" else _numerical(spends, delta, upper))


def _numerical(spends: tuple[Spend, ...], delta: float, upper: float) -> float:
    """The ``prv`` bound, which is never above ``upper``."""
    if all(spend.sample_rate >= 1.0 for spend in spends):
        return _gaussian_epsilon(math.sqrt(sum(spend.steps / spend.noise_multiplier**2 for spend in spends)), delta)
    return min(upper, _prv_epsilon(spends, delta, upper)) if upper <= _LARGEST_PRV_EPSILON else upper


def _merged(spends: Iterable[Spend]) -> tuple[Spend, ...]:
    """Equal mechanisms as one, in a fixed order, so that a history's epsilon does not depend on how it came about."""
    steps: Counter[tuple[float, float]] = Counter()
    for spend in spends:
        steps[spend.noise_multiplier, spend.sample_rate] += spend.steps
    return tuple(Spend(noise, rate, count) for (noise, rate), count in sorted(steps.items()) if count)


def _rdp_epsilon(spends: Sequence[Spend], delta: float) -> float:
    # Here, as below: Opacus takes a second that runs without differential privacy do not need.
    from opacus.accountants.analysis.rdp import get_privacy_spent  # type: ignore[import-untyped]

    total = sum(np.array(_rdp_curve(spend.noise_multiplier, spend.sample_rate)) * spend.steps for spend in spends)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the")
        value, _ = get_privacy_spent(orders=list(ORDERS), rdp=total, delta=delta)
    return float(value)


def rdp_at(spends: Iterable[Spend], order: float) -> float:
    """The sum of the Rényi divergences of this ``order`` of all ``spends``."""
    return sum(_rdp(spend.noise_multiplier, spend.sample_rate, order) * spend.steps for spend in spends)


@lru_cache(maxsize=4096)
def _rdp_curve(noise_multiplier: float, sample_rate: float) -> tuple[float, ...]:
    return tuple(_rdp(noise_multiplier, sample_rate, order) for order in ORDERS)


@lru_cache(maxsize=65536)
def _rdp(noise_multiplier: float, sample_rate: float, order: float) -> float:
    """RDP at one order; infinite, which leaves the order out, where Opacus's series does not converge."""
    from opacus.accountants.analysis.rdp import compute_rdp

    try:
        return float(compute_rdp(q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=float(order)))
    except (ValueError, OverflowError):
        return math.inf


def _gaussian_epsilon(mean: float, delta: float) -> float:
    """Epsilon of a Gaussian mechanism of noise multiplier 1 / ``mean``, by bisection of its exact delta (the upper end)."""

    def exceeds(value: float) -> bool:
        low = math.exp(min(700.0, value + float(log_ndtr(-value / mean - mean / 2))))
        return math.exp(float(log_ndtr(mean / 2 - value / mean))) - low > delta

    if not exceeds(0.0):
        return 0.0
    below, above = 0.0, 1.0
    while exceeds(above):
        below, above = above, 2 * above
    while above - below > 1e-9 * above:
        middle = (below + above) / 2
        below, above = (middle, above) if exceeds(middle) else (below, middle)
    return above


def _prv_epsilon(spends: Sequence[Spend], delta: float, upper: float) -> float:
    """Opacus's upper bound, first coarsely, then with an error that is small for the value found; ``upper`` where its grid fails."""
    from opacus.accountants import PRVAccountant  # type: ignore[import-untyped]

    accountant = PRVAccountant()
    accountant.history = [(spend.noise_multiplier, spend.sample_rate, spend.steps) for spend in spends]
    # The grid has about 2 (epsilon + 3) / mesh points, its mesh being the error over this root (Gopi et al., theorem 5.5).
    root = math.sqrt(sum(spend.steps for spend in spends) * math.log(12_000 / delta) / 2)
    coarsest = 2 * (upper + 3) * root / _LARGEST_GRID
    value = upper
    for part in (0.02, _RELATIVE_ERROR):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            error = max(part * value, _SMALLEST_ERROR, coarsest)
            try:
                value = float(accountant.get_epsilon(delta, eps_error=error))
            except (RuntimeError, ValueError):
                return upper
    return value if math.isfinite(value) else upper


def calibrate(
    planned: Sequence[Spend], target_epsilon: float, delta: float, accountant: str, *, earlier: Sequence[Spend] = (), rounds: int = 1
) -> float:
    """The smallest noise multiplier that is allowed, to three digits, with which ``planned`` stays within ``target_epsilon``.

    ``planned`` are the spends of all ``rounds``, whose own noise multipliers do not count; ``earlier`` come on top as they are.

    Raises:
        PrivacyError: no noise is enough, since ``earlier`` have spent the target or nearly so.
    """

    def spent(place: int, kind: str) -> float:
        return epsilon([*(replace(spend, noise_multiplier=_noise(place)) for spend in planned), *earlier], delta, kind)

    place = _place(_LARGEST_NOISE)
    if spent(place, "rdp") > target_epsilon and spent(place, accountant) > target_epsilon:
        raise _cannot_be_met(planned, earlier, target_epsilon, delta, accountant, rounds)
    for kind in ("rdp", accountant):  # the former is quick, and never below the latter
        if spent(place, kind) <= target_epsilon:
            place = _descend(lambda place, kind=kind: spent(place, kind), target_epsilon, place)  # type: ignore[misc]
    return max(LEAST_NOISE, _noise(place))


def _descend(spent: Callable[[int], float], target: float, high: int) -> int:
    """The smallest place whose epsilon is within ``target``, from ``high``, which is, by few evaluations: each takes tenths of seconds."""
    low, above, below = -1, math.inf, spent(high)
    for trial in itertools.count():
        if high - low <= 1:
            return high
        middle = (low + high) // 2
        if below > 0 and trial % 3 < 2:  # every third time the middle, lest a curved epsilon makes small steps
            middle = min(max(_interpolated(low, high, above, below, target), low + 1), high - 1)
        value = spent(middle)
        if value <= target:
            high, below = middle, value
        else:
            low, above = middle, value
    raise AssertionError("unreachable")


def _interpolated(low: int, high: int, above: float, below: float, target: float) -> int:
    """Where epsilon meets ``target``, its logarithm taken as a line in that of the noise: of slope -1, or through both ends if known."""
    slope = math.log(above / below) / math.log(_noise(high) / _noise(low)) if above < math.inf else 1.0
    return _place_above(_noise(high) * (below / target) ** (1 / max(slope, 1e-2)))


def rounds_within(per_round: Spend, target_epsilon: float, delta: float, accountant: str, earlier: Sequence[Spend] = ()) -> int:
    """How many rounds of this spend fit into ``target_epsilon`` on top of ``earlier``, at most 100 000."""

    def exceeds(rounds: int) -> bool:
        return epsilon([*earlier, replace(per_round, steps=per_round.steps * rounds)], delta, accountant) > target_epsilon

    return _first(exceeds, 1, 100_001) - 1


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The smallest number from ``low`` on for which ``holds``, which is monotone; ``high`` where none below does."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _noise(place: int) -> float:
    """The numbers of three significant digits from 0.01 on, in order."""
    power, digits = divmod(place, 9 * 10 ** (_DIGITS - 1))
    return float(f"{digits + 10 ** (_DIGITS - 1)}e{power - 2 - (_DIGITS - 1)}")


def _place(noise_multiplier: float) -> int:
    """The inverse of :func:`_noise`."""
    power = math.floor(math.log10(noise_multiplier) + 1e-9)
    return (power + 2) * 900 + round(noise_multiplier / 10.0**power * 100) - 100


def _place_above(noise_multiplier: float) -> int:
    """The place of the first of the numbers that is not below ``noise_multiplier``."""
    place = _place(max(noise_multiplier, _noise(0)))
    return place if _noise(place) >= noise_multiplier else place + 1


def _cannot_be_met(
    planned: Sequence[Spend], earlier: Sequence[Spend], target: float, delta: float, accountant: str, rounds: int
) -> PrivacyError:
    """The refusal, with what could be met: epsilon at a noise that leaves the gradient visible, and the noise named."""
    before = epsilon(earlier, delta, accountant)
    possible = epsilon([*(replace(spend, noise_multiplier=_USUAL_NOISE) for spend in planned), *earlier], delta, accountant)
    return PrivacyError(
        f"privacy.target_epsilon = {target:g} cannot be met at delta = {delta:.3g}: {before:.3g} is spent before the first of "
        f"{rounds} rounds; set privacy.target_epsilon = "
        f"{math.ceil(possible * 100) / 100:g}, which a noise multiplier of {_USUAL_NOISE:g} meets"
    )
