"""Long work as a generator: it yields (stage, fraction done) and returns what it made."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

Value = TypeVar("Value")


def part(
    steps: Generator[tuple[str, float], None, Value], begin: float, end: float
) -> Generator[tuple[str, float], None, Value]:
    """The same steps as a part of the job, from `begin` to `end` of it."""
    while True:
        try:
            stage, done = next(steps)
        except StopIteration as ended:
            value: Value = ended.value
            return value
        yield stage, begin + done * (end - begin)
