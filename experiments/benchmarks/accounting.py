"""Epsilon by this project's accountants beside Google's dp-accounting, and the time that each takes.

    python experiments/benchmarks/accounting.py --python /path/to/environment/bin/python

dp-accounting cannot be installed beside this project's pins, so it is asked in an environment of its own (a virtual
environment with `pip install dp-accounting`, version 0.6.0 here). PRV is compared with its privacy loss distributions, RDP with its
RDP accountant. With --table it prints the rows that tests/privacy/test_accounting.py holds. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from time import perf_counter

from primia.privacy.accounting import calibrate, epsilon
from primia.privacy.spend import Spend

CASES = [
    (1.0, 0.01, 1000, 1e-5), (1.0, 0.01, 10000, 1e-5), (0.5, 0.01, 100, 1e-5), (0.5, 0.001, 1000, 1e-5), (0.5, 0.1, 10, 1e-4),
    (0.6, 0.05, 50, 1e-4), (0.7, 0.02, 300, 1e-5), (0.8, 0.004, 2000, 1e-5), (1.1, 0.0043, 14000, 1e-5), (1.2, 0.1, 60, 1e-3),
    (1.5, 0.02, 2000, 1e-4), (2.0, 0.1, 500, 1e-4), (2.0, 0.4, 50, 1e-3), (3.0, 0.05, 3000, 1e-4), (4.0, 0.25, 400, 1e-4),
    (10.0, 0.1, 1000, 1e-5), (0.9, 0.3, 15, 1e-3), (5.0, 0.9, 30, 1e-4), (8.0, 0.03, 50000, 1e-5), (1.3, 0.064, 469, 1e-3),
    (1.0, 1.0, 1, 1e-5), (2.0, 1.0, 20, 1e-4), (10.0, 1.0, 1, 1e-5), (20.0, 1.0, 100, 1e-3), (0.5, 1.0, 1, 1e-5),
]  # fmt: skip
"""Noise multiplier, sample rate, steps, delta."""

HARD = [(1.0, 0.0001, 100000, 1e-6), (1.0, 0.001, 20000, 1e-6)]
"""Many steps of a tiny rate: seconds each."""

MIXED = [[(10.0, 1.0, 1), (1.0, 0.02, 500)], [(0.8, 0.05, 100), (1.5, 0.1, 200), (4.0, 1.0, 2)]]
"""Histories of several mechanisms, at delta 1e-4."""

SCRIPT = """
import json, sys
import dp_accounting as dp
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

def event(noise, rate, steps):
    gaussian = dp.GaussianDpEvent(noise)
    return dp.SelfComposedDpEvent(gaussian if rate == 1 else dp.PoissonSampledDpEvent(rate, gaussian), steps)

for history, delta, interval in json.load(sys.stdin):
    accountants = PLDAccountant(value_discretization_interval=interval), RdpAccountant()
    for accountant in accountants:
        for spend in history:
            accountant.compose(event(*spend))
    print(json.dumps([accountant.get_epsilon(delta) for accountant in accountants]))
"""


def reference(python: str, cases: list[tuple[list[tuple[float, float, int]], float]]) -> list[list[float]]:
    # The interval rounds each step's loss up; with many steps it must be fine.
    queries = [(history, delta, 1e-4 if sum(spend[2] for spend in history) < 20000 else 1e-5) for history, delta in cases]
    done = subprocess.run([python, "-c", SCRIPT], input=json.dumps(queries), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="interpreter of an environment with dp-accounting")
    parser.add_argument("--table", action="store_true", help="print rows for the test")
    options = parser.parse_args()
    cases: list[tuple[list[tuple[float, float, int]], float]] = [([case[:3]], case[3]) for case in CASES + HARD]
    cases += [(history, 1e-4) for history in MIXED]
    worst, seconds = {"prv": 0.0, "rdp": 0.0}, {"prv": 0.0, "rdp": 0.0}
    for (history, delta), expected in zip(cases, reference(options.python, cases), strict=True):
        spends = [Spend(*spend) for spend in history]
        values = {}
        for accountant, theirs in zip(("rdp", "prv"), expected[::-1], strict=True):
            begun = perf_counter()
            values[accountant] = epsilon(spends, delta, accountant)
            seconds[accountant] = max(seconds[accountant], perf_counter() - begun)
            worst[accountant] = max(worst[accountant], abs(values[accountant] / theirs - 1))
        print(
            f"    ({history}, {delta:g}, {expected[0]:.5g}, {expected[1]:.5g}),"
            if options.table
            else f"{history} delta {delta:g}: PRV {values['prv']:.4f} ({values['prv'] / expected[0] - 1:+.2%}), "
            f"RDP {values['rdp']:.4f} ({values['rdp'] / expected[1] - 1:+.2%})",
            flush=True,
        )
    begun = perf_counter()
    noise = calibrate([Spend(0.0, 0.064, 469)], 8.0, 1e-3, "prv")
    print(
        json.dumps(
            {
                "benchmark": "accounting",
                "cases": len(cases),
                "worst_relative_difference": {name: round(value, 5) for name, value in worst.items()},
                "slowest_s": {name: round(value, 2) for name, value in seconds.items()},
                "calibration": {"noise_multiplier": noise, "seconds": round(perf_counter() - begun, 2)},
            }
        )
    )


if __name__ == "__main__":
    main()
