"""What an encrypted inference is asked to do, as it travels to the job and its actors."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from primia.config.settings import InferenceSettings
from primia.inference.service import Mode


class InferenceSpec(BaseModel):
    """Paths are those of the node that uses them: the run's of the model owner, images and output of the data owner.

    ``fetch``: the output's folder is not on the data owner's node, so the files come back through the job.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Path
    inference: InferenceSettings
    threads: int
    mode: Mode = Mode.STREAM
    data: Path = Path()
    output: Path = Path()
    resume: bool = False
    fetch: bool = False
    preprocess: int = 0
    keys: Path | None = None
    calibration: Path | None = None

    @property
    def journal(self) -> Path:
        """Where outputs are noted until all are there."""
        if not self.fetch:
            return self.output.with_name(f".{self.output.name}.partial")
        number = hashlib.sha256(f"{self.run} {self.data} {self.output}".encode()).hexdigest()[:16]
        return Path.home() / ".cache" / "primia" / f"{number}.partial"
