"""`models`: list, download, convert, verify."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from . import conversion, downloads, pipelines, weights
from .errors import BadInput, FieldforgeError, LicenseNotAccepted, NotFound
from .pipelines import download_model
from .protocol import Progress, Report
from .terminal import ProgressBar
from .weights import Entry, Installed


def list_models(options: argparse.Namespace) -> int:
    """Every model with what it does and whether it is here, as a table or as one JSON line."""
    models = pipelines.models()
    if options.json:
        records = [dataclasses.asdict(model) for model in models]
        print(json.dumps({"models": records, "store": str(weights.store())}))
        return 0
    here = weights.installed()
    for model in models:
        print(f"{model.id:20} {', '.join(model.tasks)} - {_state(model, here)}")
        print(f"{'':20} {model.summary}")
        if model.license:
            print(f"{'':20} Licence: {model.license_words or model.license}")
    print(f"\nWeights lie in {weights.store()}")
    return 0


def _state(model: pipelines.Model, here: dict[str, Installed]) -> str:
    if model.id in here:
        missing = [need for need in model.needs if need not in here]
        size = f"ready, {here[model.id].bytes / 1e9:.1f} GB"
        return f"here; needs {', '.join(missing)}" if missing else size
    return "ready" if model.ready else f"{model.bytes / 1e9:.1f} GB to download"


# ---------------------------------------------------------------------------------------- download


def download(options: argparse.Namespace) -> int:
    """Fetch, check and convert a model of the registry; its licence is accepted first."""
    entry = _entry(options.model)
    accepted = ""
    if entry.id not in weights.installed():
        accepted = _accepted(entry, options.accept_license)
    steps = download_model.fetch(
        entry.id,
        pipelines.Context(),
        license=accepted,
        dtype=options.dtype,
        keep_checkpoint=options.keep_checkpoint,
    )
    report: dict[str, Any] = {}
    with ProgressBar(always=True) as bar, contextlib.closing(steps):
        for step in steps:
            if isinstance(step, Progress):
                bar.report(step.stage, step.fraction)
            elif isinstance(step, Report):
                report = step.report
    if options.json:
        print(json.dumps(report))
    elif report["already"]:
        print(f"{entry.id} is here already: {report['folder']}")
    else:
        print(f"{entry.id}: {report['bytes'] / 1e9:.2f} GB in {report['folder']}")
    return 0


def _entry(model_id: str) -> Entry:
    entry = weights.entries().get(model_id)
    if entry is None:
        raise NotFound(
            f"There is no model {model_id!r} to download.",
            f"Choose one of {', '.join(weights.entries())}.",
        )
    return entry


def _accepted(entry: Entry, by_flag: bool) -> str:
    """The licence's identifier once it is accepted. Raises LicenseNotAccepted."""
    print(f"{entry.title}: {entry.bytes / 1e9:.1f} GB from {entry.repository}", file=sys.stderr)
    print(f"Licence: {entry.license_words}\n{entry.license_url}", file=sys.stderr)
    if by_flag:
        return entry.license
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        downloads.check_license(entry, "")
    while True:
        print(
            'Accept it? "yes", "no", or "show" for its text: ', end="", file=sys.stderr, flush=True
        )
        answer = sys.stdin.readline().strip().lower()
        if answer == "yes":
            return entry.license
        if answer != "show":
            raise LicenseNotAccepted("The licence was not accepted.", "Nothing was downloaded.")
        try:
            print(downloads.license_text(entry), file=sys.stderr)
        except FieldforgeError as error:
            print(error, file=sys.stderr)


# ---------------------------------------------------------------------------------- convert, verify


def convert(options: argparse.Namespace) -> int:
    """Make a model of a checkpoint that is here."""
    begun = time.perf_counter()
    with ProgressBar(always=True) as bar:
        bar.report("Reading", 0.0)
        model = conversion.convert(
            options.checkpoint,
            model_id=options.id,
            args=options.args,
            ema=options.ema,
            dtype=options.dtype,
            store=options.output,
            ignore=options.ignore,
            settings_of_run=_settings_of_run(options),
            report=lambda fraction: bar.report("Converting", fraction),
        )
    if options.json:
        record = {
            "model": model.id,
            "folder": str(model.folder),
            "bytes": model.bytes,
            "source": model.source,
            "total_seconds": round(time.perf_counter() - begun, 3),
        }
        print(json.dumps(record))
        return 0
    print(f"{model.id}: {model.bytes / 1e9:.2f} GB in {model.folder}")
    why = "for want of args.json" if "checkpoint" in model.source else "since no file tells it"
    for name, value in model.source.get("assumed", {}).items():
        print(f"  assumed, {why}: {name} = {value}")
    return 0


def _settings_of_run(options: argparse.Namespace) -> dict[str, Any]:
    names = ("reference", "own_frame", "image_size", "combine", "as_published")
    given = {name: getattr(options, name) for name in names}
    return {name: value for name, value in given.items() if value is not None}


def verify(options: argparse.Namespace) -> int:
    """Compare the files of one or all models with their checksums; 1 when one is not right."""
    here, broken = weights.installed(), weights.problems()
    names = [options.model] if options.model else sorted({*here, *broken})
    if options.model and options.model not in broken:
        weights.require(options.model)
    found: dict[str, FieldforgeError | None] = {}
    with ProgressBar() as bar:
        for name in names:
            found[name] = broken.get(name) or _fault(here[name], bar)
    if options.json:
        states = {name: "ok" if error is None else str(error) for name, error in found.items()}
        print(json.dumps({"models": states, "store": str(weights.store())}))
    else:
        for name, error in found.items():
            print(f"{name:20} {'ok' if error is None else error}")
        if not found:
            print(f"There are no models in {weights.store()}.")
    return 1 if any(found.values()) else 0


def _fault(model: Installed, bar: ProgressBar) -> BadInput | None:
    try:
        weights.verify(model, lambda fraction: bar.report(f"Reading {model.id}", fraction))
    except BadInput as error:
        return error
    return None


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": list_models,
    "download": download,
    "convert": convert,
    "verify": verify,
}
