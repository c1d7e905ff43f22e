"""Progress of a pipeline, and how long each stage took."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TypeVar

from ..protocol import Progress
from . import Context

Value = TypeVar("Value")


class Stages:
    """Turns (stage, fraction) into Progress and keeps the seconds of each stage."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._began = time.perf_counter()
        self._stage = ""
        self._seconds: dict[str, float] = {}

    def at(self, stage: str, fraction: float) -> Progress:
        """The job is at `stage` now. Raises Cancelled once it is not wanted any more."""
        self._context.check_cancelled()
        if stage != self._stage:
            self._close()
            self._stage = stage
        return Progress(stage, fraction)

    def of(
        self, steps: Generator[tuple[str, float], None, Value]
    ) -> Generator[Progress, None, Value]:
        """Yield the Progress of a model's steps; returns what the model returns."""
        while True:
            try:
                stage, fraction = next(steps)
            except StopIteration as end:
                value: Value = end.value
                return value
            yield self.at(stage, fraction)

    def seconds(self) -> dict[str, float]:
        """Seconds per stage so far, in order."""
        self._close()
        return {stage: round(seconds, 3) for stage, seconds in self._seconds.items()}

    def _close(self) -> None:
        now = time.perf_counter()
        if self._stage:
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._began
        self._began = now
