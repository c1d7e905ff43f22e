"""`python3 -m backend.training views ...`: from shapes to a model of views around them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from .. import environment
from ..errors import BadInput
from . import plan_options

EVALUATION = "views-evaluation.json"
SHEET = "samples.png"
_BASE = "stable-diffusion-2-1-base"
_SHAPES, _COLOURS, _RENDERS, _VOLUMES = "shapes.ffs", "shapes.ffc", "renders", "volumes"


def add_to(actions: Any) -> None:
    """Their parsers, to the subparsers of `backend.training`."""
    views = actions.add_parser("views", help="posed views of shapes, and a model that paints such")
    actions = views.add_subparsers(required=True)
    _add_data(actions)
    _add_trainings(actions)
    _add_results(actions)


def _folder(action: argparse.ArgumentParser) -> None:
    action.add_argument("-f", "--folder", type=Path, default=environment.home() / "views")
    action.add_argument(
        "--shapes", type=Path, help=f"what `prepare` made; {_SHAPES} in FOLDER if left out"
    )
    action.add_argument("--size", choices=("tiny", "cpu", "gpu"), default="cpu")


def _add_data(actions: Any) -> None:
    colours = actions.add_parser("colours", help="the colours of the shapes, from the catalogues")
    _folder(colours)
    colours.add_argument(
        "--furniture", type=Path, help="the folder of the catalogues; beside the shapes if left out"
    )
    colours.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    colours.set_defaults(action=_colours)
    render = actions.add_parser("render", help="render the shapes; goes on where it was")
    _folder(render)
    render.add_argument("--side", choices=("train", "validation", "test"), default="train")
    render.add_argument("--pixels", type=int, default=0, help="64 if left out")
    render.add_argument("--variants", type=int, default=3, help="looks of each shape")
    render.add_argument("--generated", type=int, default=1200, help="shapes of the project's own")
    render.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    render.set_defaults(action=_render)
    volumes = actions.add_parser("volumes", help="carve coarse volumes out of what is rendered")
    _folder(volumes)
    volumes.add_argument("--side", choices=("train", "validation", "test"), default="train")
    volumes.add_argument("--pixels", type=int, default=0, help="64 if left out")
    volumes.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    volumes.set_defaults(action=_volumes)
    write = actions.add_parser("write", help="a scene as a folder with transforms.json")
    _folder(write)
    write.add_argument("--side", choices=("train", "validation", "test"), default="train")
    write.add_argument("--pixels", type=int, default=0, help="64 if left out")
    write.add_argument("number", type=int, help="of the scene")
    write.add_argument("target", type=Path)
    write.set_defaults(action=_write)


def _add_trainings(actions: Any) -> None:
    for name, words in (
        ("guess", "train the first guess of our own model, which goes before it"),
        ("train", "train a model of our own, from nothing"),
        ("fine-tune", "go on with an installed Stable Diffusion, with the published recipe"),
    ):
        action = actions.add_parser(name, help=words)
        _folder(action)
        action.add_argument("-o", "--output", type=Path, help="of checkpoints; FOLDER if left out")
        data = action.add_mutually_exclusive_group()
        data.add_argument(
            "--scenes", type=Path, help="folders with a transforms.json each, instead of renderings"
        )
        data.add_argument(
            "--co3d", nargs=2, metavar=("FOLDER", "CATEGORY"), help="a category of CO3D, instead"
        )
        action.add_argument(
            "--keep-background", action="store_true", help="of CO3D; its masks are not used"
        )
        action.add_argument("--pixels", type=int, default=0, help="of pictures; the model's own")
        plan_options.add_to(action, "scenes")
        action.add_argument("--views", type=int, help="of a scene at once")
        action.add_argument("--most", type=int, help="so many scenes only")
        if name == "train":
            action.add_argument(
                "--without-projection", action="store_true", help="no layers in space, to compare"
            )
            action.add_argument("--without-guess", action="store_true", help="no first guess; with"
                                " --without-projection, attention alone is left")  # fmt: skip
            action.add_argument("--begin-with", type=Path, help="the checkpoint of another training"
                                " of ours, whose weights it begins with; layers in space may be"
                                " new")  # fmt: skip
        elif name == "fine-tune":
            action.add_argument("--model", default=_BASE, help="the id of an installed one, or its"
                                " folder as diffusers keeps it")  # fmt: skip
            action.add_argument("--prior", type=int, default=0, metavar="N",
                                help="N pictures that it makes first, to forget less")  # fmt: skip
            action.add_argument("--save", type=Path, help="a folder, named as the model's id")
            _add_layers(action)
        action.set_defaults(action={"guess": _guess, "train": _train}.get(name, _fine_tune))


def _add_layers(action: argparse.ArgumentParser) -> None:
    """What of the published network may be another."""
    action.add_argument("--combine", help="how what comes through space and what was there become"
                        " one: replace, as published; zero, gated or add begin with more of the"
                        " base model")  # fmt: skip
    action.add_argument("--projection-down", type=int, metavar="N", help="layers through space in"
                        " so many blocks on the way in, from the innermost; 1")  # fmt: skip
    action.add_argument("--projection-up", type=int, metavar="N", help="the same of those on the"
                        " way out")  # fmt: skip
    action.add_argument("--grid", type=int, help="voxels along a side, of the finest")
    action.add_argument("--rank", type=int, help="of the corrections of attention")


def _add_results(actions: Any) -> None:
    export = actions.add_parser("export", help="write the averaged weights as a model")
    _folder(export)
    export.add_argument("-o", "--output", type=Path, help="of checkpoints; FOLDER if left out")
    export.add_argument("target", type=Path, help="a folder, named as the model's id")
    export.add_argument("--title", default="Fieldforge views")
    export.add_argument("--steps", type=int, default=20, help="of sampling where nobody says")
    _add_painting(export)
    export.set_defaults(action=_export)
    evaluate = actions.add_parser("evaluate", help="measure a model; a sheet of samples; its card")
    _folder(evaluate)
    evaluate.add_argument("target", type=Path, help="the folder of the model, or a checkpoint")
    evaluate.add_argument("--side", choices=("validation", "test"), default="test")
    evaluate.add_argument("--most", type=int, default=40, help="shapes")
    evaluate.add_argument("--samples", type=int, default=8, help="shapes on the sheet")
    evaluate.add_argument("--steps", type=int, default=20)
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--generated", type=int, default=1200)
    evaluate.add_argument("--without-projection", type=Path, help="for the card, what evaluating a"
                          " model that was trained so wrote")  # fmt: skip
    evaluate.add_argument("--without-guess", type=Path, help="the same of one that was trained"
                          " so")  # fmt: skip
    evaluate.add_argument("--without-both", type=Path, help="the same of one that was trained"
                          " --without-guess --without-projection")  # fmt: skip
    evaluate.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    evaluate.add_argument("--hardware", default="", help="a sentence for the model's card")
    _add_painting(evaluate.add_argument_group("of a checkpoint, as a model would say it itself"))
    evaluate.set_defaults(action=_evaluate)


def _add_painting(group: Any) -> None:
    """How a model paints besides its weights."""
    group.add_argument("--temperature", type=float, default=1.0, help="share of the noise that"
                       " sampling begins with; less leaves less to chance")  # fmt: skip
    group.add_argument("--haze", type=float, default=0.0, help="alpha up to which a painted pixel"
                       " shows nothing, and from 1 less that on is all of the thing")  # fmt: skip
    group.add_argument("--without-depth", action="store_true", help="depth that is painted is not"
                       " told: where it is rough, outlines alone make better meshes")  # fmt: skip


# -------------------------------------------------------------------------------------------- data


def _shapes(options: argparse.Namespace) -> Path:
    path: Path = options.shapes or options.folder / _SHAPES
    if not path.exists():
        raise BadInput(f"{path} is missing.", "Make it with `prepare --until shapes`.")
    return path


def _pixels(options: argparse.Namespace) -> int:
    from .viewdiff.networks import SIZES

    return options.pixels or SIZES[options.size].size


def _colours(options: argparse.Namespace) -> int:
    from ..terminal import ProgressBar
    from .viewdiff import colours

    shapes = _shapes(options)
    place = options.furniture or shapes.parent / "furniture"
    catalogues = sorted(place.glob("*.sh3f"))
    if not catalogues:
        raise BadInput(f"{place} has no catalogues (.sh3f).", "Give them with --furniture.")
    options.folder.mkdir(parents=True, exist_ok=True)
    target = options.folder / _COLOURS
    with ProgressBar(always=True) as bar:
        colours.write(shapes, catalogues, target, options.workers, bar.report)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
    return 0


def _render(options: argparse.Namespace) -> int:
    from ..terminal import ProgressBar
    from .viewdiff import renderings

    size, place = _pixels(options), options.folder / _RENDERS
    with ProgressBar(always=True) as bar:
        renderings.make(
            _shapes(options),
            options.folder / _COLOURS,
            place,
            options.side,
            size,
            options.workers,
            bar.report,
            variants=options.variants,
            generated_shapes=options.generated,
        )
    print(f"{len(renderings.load(place, options.side, size))} {options.side} scenes")
    return 0


def _volumes(options: argparse.Namespace) -> int:
    from ..terminal import ProgressBar
    from .viewdiff import volumes

    folder, views = options.folder / _VOLUMES, options.folder / _RENDERS
    with ProgressBar(always=True) as bar:
        volumes.make(views, folder, options.side, _pixels(options), options.workers, bar.report)
    size = sum(path.stat().st_size for path in folder.glob(f"{options.side}-*.npz"))
    print(f"{folder}: {size / 1e6:.1f} MB")
    return 0


def _write(options: argparse.Namespace) -> int:
    from ..posed_images import write_transforms
    from .viewdiff import renderings

    found = renderings.load(options.folder / _RENDERS, options.side, _pixels(options))
    if not 0 <= options.number < len(found):
        raise BadInput(f"There are {len(found)} scenes.", f"Choose 0 to {len(found) - 1}.")
    print(write_transforms(options.target, found.scene(options.number)))
    return 0


def _source(options: argparse.Namespace, size: int) -> Any:
    """Scenes of `size` pixels that are asked for."""
    from .viewdiff import renderings, sources

    if options.scenes:
        return sources.Folders(options.scenes, size)
    if options.co3d:
        folder, category = options.co3d
        return sources.Co3d(Path(folder), category, size, cut_out=not options.keep_background)
    return renderings.load(options.folder / _RENDERS, "train", size, options.most)


# --------------------------------------------------------------------------------------- trainings


def _recipe(options: argparse.Namespace, recipe: Any) -> Any:
    changes = {"scenes": options.batch, "views": options.views}
    return dataclasses.replace(recipe, **{k: v for k, v in changes.items() if v})


def _guess(options: argparse.Namespace) -> int:
    from .loops import team
    from .viewdiff import guess, volumes
    from .viewdiff.networks import SIZES

    pixels = options.pixels or SIZES[options.size].size
    source = _source(options, pixels)
    carved = None
    if not (options.scenes or options.co3d):
        place = options.folder / _VOLUMES
        share, colours = volumes.load(place, "train", pixels, len(source.starts))
        carved = guess.Carved(share[: options.most], colours[: options.most])
    recipe = guess.Recipe(options.batch or guess.Recipe.scenes, views=options.views or 0)
    plan = plan_options.plan_of(options, guess.RATE)
    with team(options.device) as members:
        say = plan_options.from_leader(members)
        path = (options.output or options.folder) / guess.CHECKPOINT
        run = guess.fit(source, options.size, recipe, plan, members, say, path, carved)
        say(plan_options.outcome(run))
    return 0


def _train(options: argparse.Namespace) -> int:
    from .loops import team
    from .viewdiff import diffusion
    from .viewdiff.networks import SIZES

    size = SIZES[options.size]
    if options.pixels not in (0, size.size):
        raise BadInput(f"This model is for {size.size} pixels.", "Leave out --pixels.")
    source = _source(options, size.size)
    recipe = _recipe(options, diffusion.OWN[options.size])
    plan = plan_options.plan_of(options, 6e-4)
    with team(options.device) as members:
        say = plan_options.from_leader(members)
        path = (options.output or options.folder) / diffusion.CHECKPOINT
        parts = _own_parts(options, path, members.device)
        say(f"{len(source)} scenes, {sum(p.numel() for p in parts.model.parameters()):,} weights")
        run = diffusion.fit(parts, source, recipe, plan, members, say, path)
        say(plan_options.outcome(run))
    return 0


def _own_parts(options: argparse.Namespace, path: Path, device: Any) -> Any:
    """What a training of our own model into `path` begins with."""
    from .viewdiff import diffusion, guess

    projection = not options.without_projection
    if resumed := diffusion.begun_already(path, options.size, device, projection):
        return resumed
    if options.begin_with:
        if options.without_guess:
            raise BadInput(
                "Whether there is a first guess, the training that is begun with says.",
                "Leave out --without-guess.",
            )
        return diffusion.going_on(
            options.begin_with, options.size, device, projection, options.seed
        )
    known = None
    if not options.without_guess:
        _check_guessed(path)
        known = guess.trained(path.with_name(guess.CHECKPOINT))
    return diffusion.fresh(
        options.size, device, projection, options.seed, known, not options.without_guess
    )


def _check_guessed(path: Path) -> None:
    """Raise BadInput where a training of so far has no guess, before anybody trains one for it."""
    from .loops import read_checkpoint

    if path.exists() and json.loads(read_checkpoint(path)["settings"]).get("guess") is None:
        raise BadInput(
            f"{path} was begun without a first guess.",
            "Add --without-guess to go on, or give another folder to begin anew.",
        )


def _layers(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Layers through space, and what else is not as published. Raises BadInput."""
    from ..models.viewdiff.config import ProjectionConfig, ViewDiffConfig

    names = ("combine", "projection_down", "projection_up", "rank")
    said = {name: getattr(options, name) for name in names}
    changes = {name: value for name, value in said.items() if value is not None}
    try:
        projection = ProjectionConfig(**({"grid": options.grid} if options.grid else {}))
        ViewDiffConfig(**changes)
    except ValueError as error:
        raise BadInput(f"There are no such layers: {error}.", "Change that.") from None
    return projection, changes


def _fine_tune(options: argparse.Namespace) -> int:
    from .loops import team
    from .viewdiff import diffusion, stable_diffusion

    plan = plan_options.plan_of(options, 5e-5, constant=True, clip=5e-3)
    with team(options.device) as members:
        say = plan_options.from_leader(members)
        projection, changes = _layers(options)
        parts, base = stable_diffusion.start(
            options.model, members.device, options.seed, projection, changes
        )
        size = options.pixels or parts.config.image_size
        if size != parts.config.image_size:
            raise BadInput(
                f"The model is built for {parts.config.image_size} pixels.", "Leave out --pixels."
            )
        source = _source(options, size)
        recipe = _recipe(options, diffusion.PUBLISHED)
        path = (options.output or options.folder) / stable_diffusion.CHECKPOINT
        prior = None
        if options.prior:
            prior = stable_diffusion.priors(base, parts, source, options.prior, options.seed, say)
        run = diffusion.fit(parts, source, recipe, plan, members, say, path, prior=prior)
        say(plan_options.outcome(run))
        if options.save and members.leads and run.steps and run.step >= run.steps:
            installed = stable_diffusion.save(run, base, parts, options.save)
            say(f"{installed.folder}: installed as {installed.id}")
    return 0


# ------------------------------------------------------------------------------------------ results


def _export(options: argparse.Namespace) -> int:
    from .viewdiff import diffusion, export

    checkpoint = (options.output or options.folder) / diffusion.CHECKPOINT
    installed = export.export(
        checkpoint,
        options.target,
        title=options.title,
        steps=options.steps,
        temperature=options.temperature,
        tells_depth=not options.without_depth,
        haze=options.haze,
    )
    size = sum(path.stat().st_size for path in installed.files) / 1e6
    print(f"{installed.folder}: {size:.1f} MB. Now: views evaluate {installed.folder}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    import torch

    from .. import device, weights
    from ..models.viewdiff.painter import ViewPainter
    from ..models.viewdiff.painter_files import load
    from ..terminal import ProgressBar
    from .viewdiff import card, diffusion, evaluate, export
    from .viewdiff.scenes import Catalogue

    place = torch.device(device.pick(options.device))
    installed = None
    if options.target.is_dir():
        installed = weights.read_model(options.target)
        painter = load(installed, place, torch.float32)
        training = installed.source.get("training")
        output = options.folder
    else:
        model, settings = diffusion.trained(options.target)
        if model.config.pixels is None:
            raise BadInput(
                f"{options.target} is no training of our own model.",
                "Look at views of a fine-tuned Stable Diffusion with `run image-to-views`.",
            )
        training = export.provenance(settings)["training"]
        config = export.painter_config(
            model.config, options.temperature, not options.without_depth, options.haze
        )
        painter = ViewPainter(config, model.to(place))
        output = options.target.parent
    catalogue = Catalogue(_shapes(options), options.folder / _COLOURS, options.generated)
    records = catalogue.records(options.side)[: options.most]
    made = evaluate.tests(catalogue, records, painter.config)
    with ProgressBar(always=True) as bar:
        means, views = evaluate.evaluate(painter, made, options.steps, options.seed, bar.report)
        beside = {}
        if painter.config.denoiser.guess_noise:
            beside[card.FIRST_GUESS], _ = evaluate.evaluate(painter, made, 0, 0, bar.report)
        if painter.config.denoiser.agreement:
            alone = evaluate.apart(painter)
            beside[card.APART], _ = evaluate.evaluate(
                alone, made, options.steps, options.seed, bar.report
            )
    if training:
        means[card.STEPS] = float(export.steps_of(training))
    target = options.target if installed else output
    shown = slice(0, options.samples)
    evaluate.sheet(made[shown], views[shown], target / SHEET)
    (output / EVALUATION).write_text(json.dumps(means, indent=1), "utf-8")
    if installed:
        others = {
            card.NO_LAYERS: options.without_projection,
            card.NO_GUESS: options.without_guess,
            card.NEITHER: options.without_both,
        }
        for name, path in others.items():
            if path:
                beside[name] = json.loads(path.read_text("utf-8"))
        trained = catalogue.records("train")
        for path in card.write(installed, trained, means, beside, target, options.hardware):
            print(path)
    print(json.dumps({"this": means, **beside}, indent=1))
    return 0
