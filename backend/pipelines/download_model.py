"""The weights of a model, fetched and made ready for use."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

from .. import downloads, weights
from ..errors import Cancelled, NotFound
from ..protocol import DownloadModel, Progress, Report, Task
from . import Context

_POLL_SECONDS = 0.2
_SECONDS_BETWEEN = 0.05
_SECONDS_TO_TIDY_UP = 3.0

# What share of the job each part is, by the first word of its stage.
_SHARES = {"Asking": (0.0, 0.0), "Downloading": (0.0, 0.8), "Checking": (0.8, 0.05)}
_SHARES["Converting"] = (0.85, 0.15)


def download_model(task: Task, context: Context) -> Iterator[Progress | Report]:
    """`task.model` of the registry into the store.

    Cancelling stops it within a second; what was downloaded is gone on with the next time.
    """
    assert isinstance(task, DownloadModel)  # noqa: S101 (the table of pipelines says so)
    return fetch(task.model, context, license=task.license)


def fetch(
    model_id: str, context: Context, *, license: str, **options: Any
) -> Generator[Progress | Report, None, None]:
    """The same with the options of downloads.install."""
    entry = weights.entries().get(model_id)
    if entry is None:
        raise NotFound(
            f"There is no model {model_id!r} to download.",
            f"Choose one of {', '.join(weights.entries())}.",
        )
    begun = time.perf_counter()
    model = weights.installed().get(model_id)
    already = model is not None
    if model is None:
        downloads.check_license(entry, license)
        model = yield from _in_background(
            lambda report: downloads.install(entry, license=license, report=report, **options),
            context,
        )
    yield Report(
        name=entry.title,
        report={
            "model": model.id,
            "folder": str(model.folder),
            "bytes": model.bytes,
            "license": entry.license,
            "already": already,
            "total_seconds": round(time.perf_counter() - begun, 3),
        },
    )


def _in_background(
    work: Callable[[downloads.Report], weights.Installed], context: Context
) -> Generator[Progress, None, weights.Installed]:
    """Run `work` in a thread, which a network that does not answer may hold up, and tell where it
    stands. Returns what it returns; raises what it raises, or Cancelled."""
    told: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    unwanted = threading.Event()
    newest: list[Any] = ["", 0.0]

    def report(stage: str, fraction: float) -> None:
        # Asked here too: a worker has little time before it is killed, and there is much to remove.
        if unwanted.is_set() or context.cancelled():
            raise Cancelled("The download was stopped.")
        now = time.monotonic()
        if stage != newest[0] or now - newest[1] >= _SECONDS_BETWEEN:
            newest[:] = stage, now
            told.put(("progress", (stage, fraction)))

    def run() -> None:
        try:
            told.put(("done", work(report)))
        except BaseException as error:
            told.put(("failed", error))

    thread = threading.Thread(target=run, name="download", daemon=True)
    thread.start()
    try:
        while True:
            context.check_cancelled()
            news = _newest(told)
            if news is None:
                continue
            kind, value = news
            if kind == "done":
                return value
            if kind == "failed":
                raise value
            yield _progress(*value)
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


def _progress(stage: str, fraction: float) -> Progress:
    begin, share = _SHARES[stage.partition(" ")[0]]
    return Progress(stage, begin + share * fraction)
