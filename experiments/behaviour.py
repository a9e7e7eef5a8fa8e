"""Record what commands give at one seed, and compare it with an earlier record: nothing but times may change in a refactoring.

    python experiments/behaviour.py before.json
    python experiments/behaviour.py after.json --against before.json

Trains the demonstration, searches with two trials, and predicts under encryption. Numbers are compared bit for bit on one machine, but
for probabilities under encryption, whose last bits are random.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

TINY = (
    "run.repeat=behaviour", "data.sites=3", "data.demo_images=48", "data.image_size=32", "training.batch_size=8", "resources.threads=1",
)  # fmt: skip
SPACE = ("search.training.learning_rate=choice(0.001, 0.003)", "search.trials=2", "search.scheduler=none", "search.algorithm=random")
TIMES = ("seconds", "timing", "versions", "output", "started", "finished", "device", "_s_per_batch")
"""Parts of names of columns and keys whose values are not compared."""

TOLERANCE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="JSON file to write")
    parser.add_argument("--against", type=Path, help="an earlier record")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = observe(Path(folder))
    options.record.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{options.record}: {sum(1 for _ in leaves(record))} values")
    if options.against:
        sys.exit(report(json.loads(options.against.read_text()), record))


def observe(folder: Path) -> dict[str, object]:
    """Run the commands in ``folder``, and return what they gave."""
    run, sweep, table = folder / "runs" / "one", folder / "runs" / "two", folder / "encrypted.json"
    given = [part for setting in TINY for part in ("--set", setting)]
    where = ["--output", str(folder / "runs")]
    primia("train", *where, "--name", "one", *given, "--set", "federation.rounds=3")
    primia("tune", *where, "--name", "two", *given, "--set", "federation.rounds=2", *[part for rule in SPACE for part in ("--set", rule)])
    primia("data", "demo", "--output", str(folder / "images"), "--images", "12", "--size", "32")
    images = next((folder / "images").rglob("*.png")).parent
    primia("infer", str(run), "--data", str(images), "--encrypted", "--output", str(table))
    encrypted = json.loads(table.read_text())
    for path in ("run", "data"):  # in a folder that is another one each time
        del encrypted["summary"][path]
    return {
        "summary": without_times(json.loads((run / "summary.json").read_text())),
        "rounds": without_times(pq.read_table(run / "rounds.parquet").to_pylist()),
        "model": hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest(),
        "sweep": without_times(pq.read_table(sweep / "sweep.parquet").to_pylist()),
        "encrypted": without_times(encrypted),
    }


def primia(*arguments: str) -> None:
    """Run a command; it ends this program where it fails."""
    done = subprocess.run([sys.executable, "-m", "primia.cli.main", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"primia-ray {' '.join(arguments)}\n{done.stdout}{done.stderr}")


def without_times(value: object) -> object:
    """Leave out what no two runs have in common."""
    if isinstance(value, dict):
        return {key: without_times(each) for key, each in value.items() if not any(time in key for time in TIMES)}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def leaves(value: object, at: str = "") -> Iterator[tuple[str, object]]:
    """Yield every number and text with its place."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(each, f"{at}/{key}")
    else:
        yield at, value


def report(before: dict[str, object], after: dict[str, object]) -> int:
    """Print what differs; return how much does."""
    old, new = dict(leaves(before)), dict(leaves(after))
    differ = [place for place in old | new if not is_same(place, old.get(place), new.get(place))]
    for place in differ:
        print(f"{place}: {old.get(place)!r} -> {new.get(place)!r}")
    print(f"{len(old)} values compared, {len(differ)} differ")
    return len(differ)


def is_same(place: str, old: object, new: object) -> bool:
    """Compare two values; probabilities under encryption up to the rounding that is drawn anew each time."""
    if place.startswith("/encrypted") and isinstance(old, float) and isinstance(new, float):
        return abs(old - new) <= TOLERANCE
    return old == new


if __name__ == "__main__":
    main()
