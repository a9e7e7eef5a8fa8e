"""What a sweep costs beside its training: the whole command against the sum of its trials' training, and the time to the first round.

Also, with many tiny trials, whether memory and the time between trials stay flat. Prints one line of JSON.

    python experiments/benchmarks/sweep_overhead.py                      12 trials of the demonstration federation
    python experiments/benchmarks/sweep_overhead.py --trials 200 --tiny  memory over 200 trials of a tiny one
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from time import perf_counter

import psutil

TINY = ("data.demo_images=36", "data.image_size=16", "data.sites=2", "training.batch_size=4", "federation.rounds=2")


def memory_bytes(process: psutil.Process) -> int:
    """Unique memory of a process and all that come of it."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_full_info().uss
        except psutil.Error:
            continue
    return total


def watch(process: psutil.Process, sweep: Path, seen: list[tuple[int, int, int, float]], stop: Event, begun: float) -> None:
    """Note (trials begun, memory, processes, seconds) whenever another trial begins."""
    while not stop.wait(0.05):
        count = len(list((sweep / "trials").glob("[0-9]*"))) if sweep.exists() else 0
        if not seen or count > seen[-1][0]:
            try:
                seen.append((count, memory_bytes(process), len(process.children(recursive=True)), perf_counter() - begun))
            except psutil.Error:
                return


def main() -> None:
    """Run the command as its user does, and measure it from outside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--concurrent", type=int, default=1)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        sweep = Path(temporary) / "sweep"
        sets = ["search.scheduler=none", f"search.max_concurrent={options.concurrent}", *(TINY if options.tiny else ())]
        command = [
            sys.executable,
            "-m",
            "primia.cli.main",
            "tune",
            "--output",
            temporary,
            "--name",
            "sweep",
            "--trials",
            str(options.trials),
        ]
        begun, first_round_s, stop = perf_counter(), None, Event()
        seen: list[tuple[int, int, int, float]] = []
        child = subprocess.Popen([*command, *(item for each in sets for item in ("--set", each))], stdout=subprocess.DEVNULL)
        thread = Thread(target=watch, args=(psutil.Process(child.pid), sweep, seen, stop, begun))
        if options.tiny:
            thread.start()
        while child.poll() is None:
            if first_round_s is None and (sweep / "trials/0001/checkpoints/round-000001.json").exists():
                first_round_s = perf_counter() - begun
            stop.wait(0.05)
        whole_s = perf_counter() - begun
        stop.set()
        if child.returncode:
            raise SystemExit(f"the command ended with {child.returncode}")
        summary = json.loads((sweep / "sweep.json").read_text())
    result = {
        "benchmark": "sweep_overhead",
        "trials": options.trials,
        "concurrent": options.concurrent,
        "tiny": options.tiny,
        "first_round_s": round(first_round_s or 0.0, 1),
        "command_s": round(whole_s, 1),
        "training_s": round(summary["training_seconds"], 1),
        "ratio": round(whole_s / summary["training_seconds"], 3),
    }
    if options.tiny:
        thread.join()
        gaps = [later[3] - earlier[3] for earlier, later in pairwise(seen[1:])]
        tenth = max(1, len(gaps) // 10)
        result |= {
            "memory_mb": {str(count): round(size / 1e6) for count, size, _, _ in seen if count in (5, 20, 50, 100, 150, 200)},
            "processes": {str(count): processes for count, _, processes, _ in seen if count in (5, 100, 200)},
            "seconds_a_trial": {"first": round(statistics.median(gaps[:tenth]), 2), "last": round(statistics.median(gaps[-tenth:]), 2)},
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
