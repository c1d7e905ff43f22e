"""`python3 -m backend.training fields ...`: from shapes to a model that makes fields.

points     points, cells and clouds of all shapes of a set; goes on where it was
fit        fields one by one, from the first one's weights, as published
together   fields of all shapes at once: a mean and amounts of few others
train      the diffusion over them
voxels     the baseline: diffusion over 24^3 cells
features   a PointNet for Frechet distances
export, evaluate, sheet
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from .. import environment
from ..errors import BadInput
from . import plan_options

EVALUATION = "fields-evaluation.json"
SHEET = "samples.png"
FREQUENCIES = 4
"""As published; six are learned sooner where things move, see docs/methods/fields.md."""


def add_to(actions: Any) -> None:
    """Their parsers, to the subparsers of `backend.training`."""
    fields = actions.add_parser("fields", help="neural fields of shapes, and models that make such")
    actions = fields.add_subparsers(required=True)
    _add_data(actions)
    _add_trainings(actions)
    _add_results(actions)


def _common(action: argparse.ArgumentParser) -> None:
    action.add_argument("-f", "--folder", type=Path, default=environment.home() / "fields")
    action.add_argument("--set", choices=("still", "moving"), default="moving", dest="which",
                        help="still seats, or creatures and mechanisms that move")  # fmt: skip
    action.add_argument("--shapes", type=Path, help="the furniture, as `prepare` made it, for still"
                        " shapes; only the project's own if left out")  # fmt: skip
    action.add_argument("--most", type=int, help="so many shapes only, to try")


def _add_data(actions: Any) -> None:
    points = actions.add_parser("points", help="points and cells of all shapes of a set")
    _common(points)
    points.set_defaults(action=_points)
    fit = actions.add_parser("fit", help="fields one by one, as published; goes on where it was")
    _common(fit)
    _add_field(fit)
    fit.add_argument("--effort", choices=("fast", "good", "best"), default="good")
    fit.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    fit.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    fit.add_argument("--seed", type=int, default=0)
    fit.set_defaults(action=_fit)
    sheet = actions.add_parser("sheet", help="a picture of shapes of a set, to look at")
    _common(sheet)
    sheet.add_argument("--side", choices=("train", "test"), default="train")
    sheet.add_argument("target", type=Path)
    sheet.set_defaults(action=_sheet)


def _add_trainings(actions: Any) -> None:
    for name, words, action_of in (
        ("together", "fit the fields of all shapes at once", _together),
        ("train", "train the diffusion over fields", _train),
        ("voxels", "train the baseline over 24^3 cells", _voxels),
        ("features", "train a PointNet for Frechet distances", _features),
    ):
        action = actions.add_parser(name, help=words)
        _common(action)
        action.add_argument("--size", choices=("cpu", "gpu"), default="cpu")
        plan_options.add_to(action, "shapes")
        if name == "together":
            _add_field(action)
            action.add_argument("--components", type=int, help="fields beside the mean")
            action.add_argument(
                "--begin-with", type=Path, help="a checkpoint whose weights a new run begins with"
            )
        if name == "train":
            _add_field(action)
            _add_source(action)
            action.add_argument(
                "--space",
                choices=("components", "scalar", "none"),
                default="components",
                help="what the diffusion is over",
            )
            action.add_argument("--components", type=int, help="as many as the fields have")
        action.set_defaults(action=action_of)


def _add_field(action: argparse.ArgumentParser) -> None:
    action.add_argument("--frequencies", type=int, default=FREQUENCIES,
                        help="of the encoding of points, of all fields of a model")  # fmt: skip
    action.add_argument("--cycle", action="store_true",
                        help="tell frames by their phase, of motion that repeats")  # fmt: skip


def _add_source(action: argparse.ArgumentParser) -> None:
    action.add_argument("--fields", choices=("together", "one-by-one"), default="together",
                        help="which fields: of `together` or of `fit`")  # fmt: skip


def _add_results(actions: Any) -> None:
    export = actions.add_parser("export", help="write the averaged weights as a model")
    _common(export)
    export.add_argument("target", type=Path, help="a folder, named as the model's id")
    export.add_argument("--title", default="Fieldforge creatures")
    export.add_argument("--steps", type=int, default=50, help="of sampling where nobody says")
    export.add_argument("--default-for", nargs="*", default=[], metavar="TASK")
    export.add_argument("--stands-in-for", nargs="*", default=[], metavar="TASK",
                        help="tasks that any other model goes before")  # fmt: skip
    export.add_argument("--without", nargs="*", default=[], metavar="NAME",
                        help="names of what does not come out well")  # fmt: skip
    export.set_defaults(action=_export)
    evaluate = actions.add_parser("evaluate", help="measure a model; a sheet of samples; its card")
    _common(evaluate)
    _add_source(evaluate)
    evaluate.add_argument("target", type=Path, help="the folder of the model")
    evaluate.add_argument(
        "--count", type=int, help="things made; as many as test shapes if left out"
    )
    evaluate.add_argument("--samples", type=int, default=24, help="things on the sheet")
    evaluate.add_argument("--pairs", type=int, default=12, help="to look in between")
    evaluate.add_argument("--points", type=int, default=2048, help="of each cloud")
    evaluate.add_argument("--steps", type=int, default=0)
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--features", help="module:function, instead of our own PointNet")
    evaluate.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    evaluate.add_argument("--hardware", default="", help="a sentence for the model's card")
    evaluate.set_defaults(action=_evaluate)


# -------------------------------------------------------------------------------------------- data


def _folder(options: argparse.Namespace) -> Path:
    found: Path = options.folder / options.which
    found.mkdir(parents=True, exist_ok=True)
    return found


def _items(options: argparse.Namespace, side: str) -> Any:
    from .fields import data

    if options.shapes and not options.shapes.exists():
        raise BadInput(f"{options.shapes} is missing.", "Make it with `prepare --until trees`.")
    return data.items(options.which, side, options.shapes)[: options.most]


def _field(options: argparse.Namespace) -> Any:
    from ..models.hyperdiffusion.config import FieldConfig
    from ..models.hyperdiffusion.model import FRAMES

    moving = options.which == "moving"
    period = FRAMES if moving and options.cycle else 0
    return FieldConfig(4 if moving else 3, options.frequencies, period=period)


def _points(options: argparse.Namespace) -> int:
    from ..terminal import ProgressBar
    from .fields import points, voxels

    items = _items(options, "train")
    with ProgressBar(always=True) as bar:
        points.prepare(items, _folder(options), bar.report)
        voxels.prepare(items, _folder(options), bar.report)
    print(f"{len(items)} shapes of the training side")
    return 0


def _fit(options: argparse.Namespace) -> int:
    from ..device import pick
    from ..models.hyperdiffusion.fitting import EFFORTS
    from .fields import fits

    items = _items(options, "train")

    def report(words: str, fraction: float) -> None:
        print(f"{fraction:.0%} {words}", flush=True)

    fits.fit_all(
        items,
        _folder(options),
        _field(options),
        report,
        EFFORTS[options.effort],
        options.seed,
        pick(options.device),
        options.processes,
    )
    overlaps = fits.load(items, _folder(options))[1]
    print(f"{len(items)} fields: overlap {overlaps.mean():.3f}, {overlaps.min():.3f} at least")
    return 0


def _sheet(options: argparse.Namespace) -> int:
    from .fields import evaluate

    items = _items(options, options.side)
    evaluate.sheet([item.surfaces(64) for item in items], options.target)
    print(options.target)
    return 0


# --------------------------------------------------------------------------------------- trainings


def _say(line: str) -> None:
    print(line, flush=True)


def _over(run: Any) -> int:
    print(plan_options.outcome(run))
    return 0


def _together(options: argparse.Namespace) -> int:
    import dataclasses

    from .fields import points, together, voxels
    from .loops import read_checkpoint, team

    recipe = together.SIZES[options.size]
    changed = {"components": options.components, "shapes": options.batch}
    recipe = dataclasses.replace(recipe, **{k: v for k, v in changed.items() if v})
    folder, field, plan = (
        _folder(options),
        _field(options),
        plan_options.plan_of(options, together.RATE),
    )
    with team(options.device) as members:
        items = _items(options, "train")
        known, cells = points.load(items, folder), voxels.load(items, folder)
        before, seconds = None, 0.0
        if options.begin_with:
            before = together.trained(options.begin_with)
            state = read_checkpoint(options.begin_with)
            seconds = state["numbers"]["seconds"] + state["extra"].get("before", 0.0)
        run = together.fit(
            known, field, recipe, plan, members, _say, folder, cells, before, seconds
        )
        if run.steps and run.step >= run.steps and members.leads:
            fields = together.fields_of(together.trained(run.path))
            overlaps = together.overlaps(field, fields, known)
            _say(f"overlap {overlaps.mean():.3f}, {overlaps.min():.3f} at least")
    return _over(run)


def _vectors(options: argparse.Namespace, items: Any) -> Any:
    """Fields (N, W) of the items."""
    import torch

    from ..models.hyperdiffusion.weights_vector import token_sizes
    from .fields import fits, together

    folder = _folder(options)
    if options.fields == "one-by-one":
        return torch.from_numpy(fits.load(items, folder)[0])
    path = folder / together.CHECKPOINT
    fields = together.fields_of(together.trained(path))
    if len(fields) != len(items):
        raise BadInput(
            f"{path} has {len(fields)} fields, not {len(items)}.", "Give the shapes of `together`."
        )
    if fields.shape[1] != sum(token_sizes(_field(options))):
        raise BadInput(
            f"The fields in {path} are told their points otherwise.",
            "Give the --frequencies, and --cycle or not, that `together` was given.",
        )
    return fields


def _told(options: argparse.Namespace, items: Any, fields: Any) -> dict[str, Any]:
    """What a card says of the fields."""
    import numpy as np

    from .fields import fits, points, together
    from .loops import read_checkpoint

    folder, more = _folder(options), {}
    if options.fields == "one-by-one":
        overlaps = fits.load(items, folder)[1]
    else:
        overlaps = together.overlaps(_field(options), fields, points.load(items, folder))
        state = read_checkpoint(folder / together.CHECKPOINT)
        components = len(state["average"]["basis"])
        more = {"together": True, "components": components}
        more["fitting seconds"] = state["numbers"]["seconds"] + state["extra"].get("before", 0)
    kinds = np.array([item.kind for item in items])
    by_kind = {kind: float(overlaps[kinds == kind].mean()) for kind in sorted(set(kinds.tolist()))}
    return {
        "overlap": float(overlaps.mean()),
        "least overlap": float(overlaps.min()),
        "overlap by kind": by_kind,
        **more,
    }


def _train(options: argparse.Namespace) -> int:
    from .fields import creatures, diffusion
    from .loops import team

    items = _items(options, "train")
    vectors = _vectors(options, items)
    # Fields that were fitted together lie in no more directions than that training had.
    components = options.components or diffusion.directions(vectors, 128)
    names = creatures.NAMES if options.which == "moving" else ()
    config = diffusion.configuration(
        _field(options), options.space, options.size, components, names
    )
    recipe = diffusion.Recipe(options.space, options.batch or diffusion.BATCH[options.space])
    plan = plan_options.plan_of(options, diffusion.RATES[options.space])
    with team(options.device) as members:
        run = diffusion.fit(
            vectors,
            [item.kind for item in items],
            [item.shape.caption for item in items],
            config,
            recipe,
            plan,
            members,
            _say,
            _folder(options) / diffusion.CHECKPOINT,
        )
    if run.steps and run.step >= run.steps and members.leads:
        told = _told(options, items, vectors)
        _say(f"{len(items)} fields, overlap {told['overlap']:.3f}")
        (_folder(options) / diffusion.FITTED).write_text(json.dumps(told), "utf-8")
    return _over(run)


def _voxels(options: argparse.Namespace) -> int:
    from .fields import voxels
    from .loops import team

    folder = _folder(options)
    cells = voxels.load(_items(options, "train"), folder)
    recipe = voxels.Recipe(options.size, options.batch or (8 if options.size == "cpu" else 64))
    with team(options.device) as members:
        run = voxels.fit(cells, recipe, plan_options.plan_of(options, 1e-3), members, _say, folder)
    return _over(run)


def _features(options: argparse.Namespace) -> int:
    from ..terminal import ProgressBar
    from .fields import features
    from .loops import team

    options.folder.mkdir(parents=True, exist_ok=True)
    with ProgressBar(always=True) as bar:
        clouds = features.clouds(options.folder, bar.report)
    plan, batch = plan_options.plan_of(options, 1e-3), options.batch or 32
    with team(options.device) as members:
        run = features.fit(clouds, plan, members, _say, options.folder, batch)
    return _over(run)


# ------------------------------------------------------------------------------------------ results


def _export(options: argparse.Namespace) -> int:
    from .fields import diffusion, export

    folder = _folder(options)
    installed = export.export(
        folder / diffusion.CHECKPOINT,
        options.target,
        title=options.title,
        steps=options.steps,
        default_for=tuple(options.default_for),
        stands_in_for=tuple(options.stands_in_for),
        without=options.without,
    )
    print(f"{installed.folder}: {installed.bytes / 1e6:.1f} MB. Now: fields evaluate")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    import numpy as np
    import torch

    from .. import device, weights
    from ..models.hyperdiffusion.model import load
    from ..terminal import ProgressBar
    from .fields import card, diffusion, evaluate, features, voxels
    from .loops import read_checkpoint

    folder, installed = _folder(options), weights.read_model(options.target)
    model, place = load(options.target), device.pick(options.device)
    training, test = _items(options, "train"), _items(options, "test")
    fitted = folder / diffusion.FITTED
    if not fitted.exists():
        raise BadInput(
            f"{fitted} is missing, which the end of the training writes.",
            "Go on with fields train to its end.",
        )
    seen_by, baseline = "a PointNet of the project's own", 0.0
    if options.features:
        judge: Any = features.given(options.features)
        seen_by = options.features
    else:
        own = options.folder / features.CHECKPOINT
        judge = features.own(own) if own.exists() else None
    count, kinds = options.count or len(test), model.config.names or ("",)
    with ProgressBar(always=True) as bar:
        known, held = (
            evaluate.clouds_of_items(some, options.which, folder, bar.report, options.points)
            for some in (training, test)
        )
        made = evaluate.of_fields(model, count, options.seed, options.steps, place, bar.report)
        assert made.vectors is not None  # noqa: S101 - fields have them
        sets = evaluate.Sets(held, known, judge, [item.kind for item in training])
        named = [kinds[number % len(kinds)] for number in range(count)]
        told = named if model.config.names else ()
        rows = [*sets.rows(), sets.row(installed.id, made.clouds(options.points), told)]
        if (folder / voxels.CHECKPOINT).exists():
            network = voxels.trained(folder / voxels.CHECKPOINT)
            baseline = read_checkpoint(folder / voxels.CHECKPOINT)["numbers"]["seconds"]
            others = evaluate.of_voxels(network, count, options.seed, torch.device(place))
            rows.append(sets.row("voxels", others.clouds(options.points)))
            evaluate.sheet(others.surfaces[: options.samples], folder / "voxels.png")
        between = evaluate.interpolation(model, made.vectors, named, options.pairs, bar.report)
    measured = {
        **json.loads(fitted.read_text("utf-8")),
        "points": options.points,
        "features": seen_by,
        "voxels seconds": baseline,
        "sets": rows,
        "between": between,
        "weights to training": float(np.mean([far for _, far in model.nearest(made.vectors)] or 0)),
    }
    (folder / EVALUATION).write_text(json.dumps(measured, indent=1), "utf-8")
    evaluate.sheet(made.surfaces[: options.samples], options.target / SHEET)
    for path in card.write(installed, training, measured, options.target, options.hardware):
        print(path)
    print(json.dumps(measured, indent=1))
    return 0
