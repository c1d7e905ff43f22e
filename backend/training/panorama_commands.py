"""`python3 -m backend.training rooms ...`, `panoramas ...`: from furniture to a model of rooms."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from .. import environment
from ..errors import BadInput
from . import plan_options

FURNITURE = "furniture.ffr"
EVALUATION = "panorama-evaluation.json"
SHEET = "samples.png"


def add_to(actions: Any) -> None:
    """Their parsers, to the subparsers of `backend.training`."""
    rooms = actions.add_parser("rooms", help="furnished rooms: pictures all around with depth")
    _add_rooms(rooms.add_subparsers(required=True))
    panoramas = actions.add_parser("panoramas", help="train a model of such rooms")
    _add_panoramas(panoramas.add_subparsers(required=True))


def _folder(action: argparse.ArgumentParser) -> None:
    action.add_argument("-f", "--folder", type=Path, default=environment.home() / "rooms")


def _add_rooms(actions: Any) -> None:
    furniture = actions.add_parser("furniture", help="pack furniture with colours and sizes")
    _folder(furniture)
    furniture.add_argument("--package", type=Path, help="the .deb of the furniture, if it is here")
    furniture.set_defaults(action=_furniture)
    paint = actions.add_parser("paint", help="make rooms; goes on where it was")
    _folder(paint)
    paint.add_argument("--side", choices=("train", "evaluation"), default="train")
    paint.add_argument("--count", type=int, default=3008)
    paint.add_argument("--height", type=int, default=256, help="pixels; twice as many across")
    paint.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    paint.set_defaults(action=_paint)
    sheet = actions.add_parser("sheet", help="a picture of some rooms with their captions")
    _folder(sheet)
    sheet.add_argument("--side", choices=("train", "evaluation"), default="train")
    sheet.add_argument("--first", type=int, default=0)
    sheet.add_argument("--count", type=int, default=8)
    sheet.add_argument("target", type=Path)
    sheet.set_defaults(action=_sheet)


def _add_panoramas(actions: Any) -> None:
    for name, words in (
        ("autoencoder", "train the autoencoder of pictures with depth"),
        ("diffusion", "train what makes latents of words; needs the autoencoder"),
        ("layouts", "train what imagines where everything is; needs the autoencoder"),
        ("fine-tune", "go on with an installed LDM3D; its autoencoder stays as it is"),
    ):
        action = actions.add_parser(name, help=words)
        _folder(action)
        action.add_argument("-o", "--output", type=Path, help="of checkpoints; FOLDER if left out")
        plan_options.add_to(action, "rooms")
        action.add_argument("--rooms", type=int, help="so many rooms only")
        if name == "fine-tune":
            action.add_argument("--model", default="ldm3d-pano", help="the id of an installed one")
        else:
            action.add_argument("--size", choices=("tiny", "cpu", "gpu"), default="cpu")
        if name == "autoencoder":
            action.add_argument("--critic", type=float, help="weight of a critic of patches")
        elif name != "layouts":
            action.add_argument("--mirrored", action="store_true", help="also rooms in the mirror")
        action.set_defaults(action=_train, training=name)
    export = actions.add_parser("export", help="write the averaged weights as a model")
    _folder(export)
    export.add_argument("-o", "--output", type=Path, help="of checkpoints; FOLDER if left out")
    export.add_argument("--size", choices=("tiny", "cpu", "gpu"), default="cpu")
    export.add_argument("--rooms", type=int, help="as in the training")
    export.add_argument("target", type=Path, help="a folder, named as the model's id")
    export.add_argument("--title", default="Fieldforge rooms")
    export.add_argument("--steps", type=int, default=25, help="of sampling where nobody says")
    export.add_argument("--guidance", type=float, default=1.5, help="likewise")
    export.set_defaults(action=_export)
    evaluate = actions.add_parser("evaluate", help="measure an exported model; a sheet of samples")
    _folder(evaluate)
    evaluate.add_argument("target", type=Path, help="the folder of the model")
    evaluate.add_argument("--most", type=int, default=64, help="rooms that the autoencoder codes")
    evaluate.add_argument("--samples", type=int, default=8)
    evaluate.add_argument("--steps", type=int, help="of sampling; the model's own if left out")
    evaluate.add_argument("--guidance", type=float, help="likewise")
    evaluate.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    evaluate.add_argument("--hardware", default="", help="a sentence for the model's card")
    evaluate.set_defaults(action=_evaluate)


# ------------------------------------------------------------------------------------------- rooms


def _furniture(options: argparse.Namespace) -> int:
    from ..terminal import ProgressBar
    from . import catalogue
    from .rooms import furnishings

    options.folder.mkdir(parents=True, exist_ok=True)
    place = options.folder / "furniture"
    catalogues = sorted(place.glob("*.sh3f"))
    with ProgressBar(always=True) as bar:
        if not catalogues:
            bar.report("Fetching the furniture", 0.0)
            package = options.package or catalogue.fetch(options.folder)
            catalogues = catalogue.unpack(package, place)
        furnishings.pack(catalogues, options.folder / FURNITURE, bar.report)
    print(
        f"{options.folder / FURNITURE}: {(options.folder / FURNITURE).stat().st_size / 1e6:.1f} MB"
    )
    return 0


def _paint(options: argparse.Namespace) -> int:
    from ..terminal import ProgressBar
    from .rooms import dataset

    furniture = options.folder / FURNITURE
    if not furniture.exists():
        raise BadInput(f"{furniture} is missing.", "Make it with `rooms furniture`.")
    with ProgressBar(always=True) as bar:
        dataset.make(
            furniture,
            options.folder,
            options.side,
            options.count,
            options.height,
            options.workers,
            bar.report,
        )
    print(f"{len(dataset.load(options.folder, options.side))} {options.side} rooms")
    return 0


def _sheet(options: argparse.Namespace) -> int:
    from .ldm3d import evaluate
    from .rooms import dataset

    rooms = dataset.load(options.folder, options.side)
    numbers = range(options.first, min(options.first + options.count, len(rooms)))
    evaluate.sheet(evaluate.room_rows(rooms, numbers), options.target)
    print(options.target)
    return 0


# --------------------------------------------------------------------------------------- trainings


def _train(options: argparse.Namespace) -> int:
    from .loops import team
    from .rooms import dataset

    rooms = dataset.load(options.folder, "train", options.rooms)
    output = options.output or options.folder
    rates = {"autoencoder": 5e-4, "diffusion": 5e-4, "layouts": 1e-3, "fine-tune": 1e-5}
    plan = plan_options.plan_of(options, rates[options.training])
    with team(options.device) as members:
        say = plan_options.from_leader(members)
        run = _TRAININGS[options.training](options, rooms, plan, members, say, output)
        say(plan_options.outcome(run))
    return 0


def _train_autoencoder(
    options: argparse.Namespace, rooms: Any, plan: Any, members: Any, say: Any, output: Path
) -> Any:
    from .ldm3d import autoencoder

    large = options.size == "gpu"
    critic = options.critic if options.critic is not None else (0.05 if large else 0.0)
    recipe = autoencoder.Recipe(
        options.size,
        options.batch or (16 if large else 4),
        columns=0 if large else 128,
        critic=critic,
    )
    return autoencoder.fit(rooms, recipe, plan, members, say, output)


def _train_diffusion(
    options: argparse.Namespace, rooms: Any, plan: Any, members: Any, say: Any, output: Path
) -> Any:
    from .ldm3d import autoencoder, diffusion, latents

    coder = autoencoder.trained(output / autoencoder.CHECKPOINT).to(members.device)
    # Each process codes its share of the rooms, and trains on it.
    mine = range(members.rank, len(rooms), members.size)
    path = output / f"panorama-latents-{members.rank}.npy"
    found = latents.encoded(
        coder, rooms, mine, path, members.device, say, mirrored=options.mirrored
    )
    parts = diffusion.fresh(options.size, coder.config.latent_channels, rooms.captions)
    batch = options.batch or (16 if options.size == "cpu" else 64)
    recipe = diffusion.Recipe(batch, until=diffusion.AFTER_LAYOUTS)
    path = output / diffusion.CHECKPOINT
    captions = [rooms.captions[number] for number in mine]
    return diffusion.fit(parts, found, captions, recipe, plan, members, say, path)


def _train_layouts(
    options: argparse.Namespace, rooms: Any, plan: Any, members: Any, say: Any, output: Path
) -> Any:
    from .ldm3d import autoencoder, layouts

    coder = autoencoder.trained(output / autoencoder.CHECKPOINT).to(members.device)
    mine = range(members.rank, len(rooms), members.size)
    kept = output / f"panorama-aligned-{members.rank}.npy"
    found = layouts.aligned(coder, rooms, mine, kept, members.device, say)
    recipe = layouts.Recipe(options.size, options.batch or 256)
    captions = [rooms.captions[number] for number in mine]
    path = output / layouts.CHECKPOINT
    return layouts.fit(found, captions, recipe, plan, members, say, path)


def _fine_tune(
    options: argparse.Namespace, rooms: Any, plan: Any, members: Any, say: Any, output: Path
) -> Any:
    import torch

    from .. import weights
    from ..models.ldm3d import loading
    from .ldm3d import diffusion, latents

    installed = weights.require(options.model)
    model = loading.load(installed, members.device, torch.float32)
    mine = range(members.rank, len(rooms), members.size)
    found = latents.encoded(
        model.vae,
        rooms,
        mine,
        output / f"{options.model}-latents-{members.rank}.npy",
        members.device,
        say,
        layout=model.config.depth_layout,
        height=model.config.height,
        mirrored=options.mirrored,
    )
    schedule = json.loads(
        (installed.folder / "scheduler" / "scheduler_config.json").read_text("utf-8")
    )
    parts = diffusion.published(model, schedule, options.model)
    recipe = diffusion.Recipe(options.batch or 4)
    path = output / diffusion.FINE_TUNED
    captions = [rooms.captions[number] for number in mine]
    return diffusion.fit(parts, found, captions, recipe, plan, members, say, path)


_TRAININGS = {
    "autoencoder": _train_autoencoder,
    "diffusion": _train_diffusion,
    "layouts": _train_layouts,
    "fine-tune": _fine_tune,
}

# ------------------------------------------------------------------------------------------ results


def _export(options: argparse.Namespace) -> int:
    from .ldm3d import export
    from .rooms import dataset

    rooms = dataset.load(options.folder, "train", options.rooms)
    installed = export.export(
        options.output or options.folder,
        options.size,
        rooms.captions,
        options.target,
        title=options.title,
        height=len(rooms.levels(0)),
        steps=options.steps,
        guidance=options.guidance,
    )
    size = sum(path.stat().st_size for path in installed.files) / 1e6
    print(f"{installed.folder}: {size:.1f} MB. Now: panoramas evaluate {installed.folder}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    import torch

    from .. import device, weights
    from ..models.ldm3d import loading
    from .ldm3d import card, evaluate
    from .rooms import dataset

    place = torch.device(device.pick(options.device))
    installed = weights.read_model(options.target)
    model = loading.load(installed, place, torch.float32)
    rooms = dataset.load(options.folder, "evaluation")
    layout = model.config.depth_layout
    measured = evaluate.of_autoencoder(model.vae, rooms, place, options.most, layout)
    captions = rooms.captions[: options.samples]
    steps = options.steps or installed.steps
    guidance = options.guidance or installed.guidance or 1.0
    rows = evaluate.samples(model, captions, steps, guidance, 0, print)
    evaluate.sheet(rows, options.target / SHEET)
    for name, found in (
        ("seam", [evaluate.seam(picture, model.factor) for _, picture, _ in rows]),
        ("pole", [evaluate.pole(picture) for _, picture, _ in rows]),
    ):
        measured[f"{name} of samples"] = sum(found) / max(1, len(found))
    (options.folder / EVALUATION).write_text(json.dumps(measured, indent=1), "utf-8")
    for path in card.write(
        options.folder / FURNITURE, installed, measured, options.target, options.hardware
    ):
        print(path)
    print(json.dumps(measured, indent=1))
    return 0
