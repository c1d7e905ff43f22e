"""The weights of a model, fetched and made ready for use."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Any

from .. import downloads, weights
from ..errors import NotFound
from ..protocol import DownloadModel, Progress, Report, Task
from . import Context
from .background import in_background

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
        steps = in_background(
            lambda report: downloads.install(entry, license=license, report=report, **options),
            context,
            "download",
        )
        model = yield from _told(steps)
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


def _told(
    steps: Generator[tuple[str, float], None, weights.Installed],
) -> Generator[Progress, None, weights.Installed]:
    """What a download, which a network that does not answer may hold up, says of itself."""
    while True:
        try:
            stage, fraction = next(steps)
        except StopIteration as end:
            model: weights.Installed = end.value
            return model
        yield _progress(stage, fraction)


def _progress(stage: str, fraction: float) -> Progress:
    begin, share = _SHARES[stage.partition(" ")[0]]
    return Progress(stage, begin + share * fraction)
