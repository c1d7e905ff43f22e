"""Work that tells where it stands by a callback, as the steps of a pipeline."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from ..errors import Cancelled
from . import Context

Value = TypeVar("Value")
Report = Callable[[str, float], None]
"""Told (stage, fraction); raises Cancelled once the work is not wanted any more."""

_POLL_SECONDS = 0.2
_SECONDS_BETWEEN = 0.05
_SECONDS_TO_TIDY_UP = 3.0


def in_background(
    work: Callable[[Report], Value], context: Context, name: str
) -> Generator[tuple[str, float], None, Value]:
    """Run `work` in a thread and yield what it reports last, (stage, fraction), several times a
    second. Returns what it returns; raises what it raises, or Cancelled.

    name: of the thread. A work that never reports goes on after it was cancelled until it ends.
    """
    told: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    unwanted = threading.Event()
    newest: list[Any] = ["", 0.0]

    def report(stage: str, fraction: float) -> None:
        # Asked here too: a worker has little time before it is killed, and there is much to remove.
        if unwanted.is_set() or context.cancelled():
            raise Cancelled("The job was stopped.")
        now = time.monotonic()
        if stage != newest[0] or now - newest[1] >= _SECONDS_BETWEEN:
            newest[:] = stage, now
            told.put(("progress", (stage, fraction)))

    def run() -> None:
        try:
            told.put(("done", work(report)))
        except BaseException as error:
            told.put(("failed", error))

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        while True:
            context.check_cancelled()
            news = _newest(told)
            if news is None:
                continue
            kind, value = news
            if kind == "done":
                found: Value = value
                return found
            if kind == "failed":
                raise value
            yield value
    finally:
        unwanted.set()
        thread.join(_SECONDS_TO_TIDY_UP if not context.cancelled() else _POLL_SECONDS)


def _newest(told: queue.SimpleQueue[tuple[str, Any]]) -> tuple[str, Any] | None:
    """The last word of those that came, and the end before all others."""
    news = None
    try:
        news = told.get(timeout=_POLL_SECONDS)
        while news[0] == "progress":
            news = told.get_nowait()
    except queue.Empty:
        pass
    return news
