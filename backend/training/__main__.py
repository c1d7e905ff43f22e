"""`python3 -m backend.training ACTION`; `--help` lists the actions."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import environment
from ..errors import BadInput, FieldforgeError
from . import fields_commands, panorama_commands, plan_options, views_commands

SHARES = {"autoencoder": 10, "seeing": 6, "imagining": 2, "diffusion": 9}
"""Of the whole time, what each training gets where all are done, in the order in which they are."""

RATES = {"autoencoder": 1e-3, "seeing": 4e-4, "imagining": 1e-3, "diffusion": 4e-4}


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 bad input."""
    options = _parser().parse_args(arguments)
    try:
        return options.action(options)
    except FieldforgeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Stopped. The same command goes on where it was.", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m backend.training", description=__doc__)
    actions = parser.add_subparsers(required=True)
    prepare = actions.add_parser("prepare", help="fetch the shapes and make what training reads")
    prepare.add_argument("-o", "--folder", type=Path, default=environment.home() / "training")
    _add_preparation(prepare)
    prepare.add_argument(
        "--until",
        choices=("shapes", "trees", "conditions"),
        default="conditions",
        help="the last thing to make; shapes is what can be carried to another machine",
    )
    prepare.set_defaults(action=_prepare)
    evaluate = actions.add_parser("evaluate", help="measure models on shapes they never saw")
    evaluate.add_argument("-f", "--folder", type=Path, default=environment.home() / "training")
    evaluate.add_argument("--models", nargs="+", default=["wavelet-fit"], help="ids of models")
    evaluate.add_argument("--inputs", nargs="+", help="kinds of inputs; all if left out")
    evaluate.add_argument("--most", type=int, help="so many test shapes only")
    evaluate.add_argument(
        "--samples", type=int, default=40, help="shapes that each model makes of nothing"
    )
    evaluate.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    evaluate.set_defaults(action=_evaluate)
    _add_trainings(actions)
    panorama_commands.add_to(actions)
    views_commands.add_to(actions)
    fields_commands.add_to(actions)
    return parser


def _add_trainings(actions: Any) -> None:
    for name, words in (
        ("autoencoder", "train the VQ-VAE between wavelet trees and latents"),
        ("seeing", "train what sees, in pictures, where shapes are solid"),
        ("imagining", "train what makes voxels of words, or of nothing"),
        ("diffusion", "train what makes latents of points, voxels, pictures and words"),
    ):
        action = actions.add_parser(name, help=words)
        _add_training(action)
        action.set_defaults(action=_train, training=name)
    everything = actions.add_parser(
        "everything", help="prepare what is missing, all four trainings, and pieces to carry away"
    )
    _add_training(everything)
    _add_preparation(everything)
    everything.add_argument("--pieces", type=Path, required=True, help="where the pieces go")
    everything.set_defaults(action=_everything)
    export = actions.add_parser("export", help="write the averaged weights as a model")
    export.add_argument("-f", "--folder", type=Path, required=True, help="of the checkpoints")
    export.add_argument(
        "target", type=Path, help="a folder, named as the model's id; with --pieces, where they go"
    )
    export.add_argument(
        "--pieces",
        nargs="+",
        metavar="CHECKPOINT",
        help="instead, pieces of these checkpoints' averages to carry away",
    )
    export.add_argument(
        "--join",
        nargs="+",
        metavar="CHECKPOINT",
        help="instead, from pieces in FOLDER back to checkpoints in the target",
    )
    export.add_argument("--title", default="Fieldforge small")
    export.add_argument("--license", default="CC-BY-4.0")
    export.add_argument("--card", type=Path, help="a text that becomes its README.md")
    export.add_argument("--steps", type=int, default=8, help="of sampling, where none are chosen")
    export.add_argument("--guidance", type=float, default=1.5, help="likewise")
    export.add_argument("--tasks", nargs="+", metavar="TASK", help="to be offered; all if left out")
    export.add_argument(
        "--default-for", nargs="*", default=[], metavar="TASK", help="taken where none is chosen"
    )
    export.set_defaults(action=_export)
    card = actions.add_parser("card", help="write a model's card and attributions, as measured")
    card.add_argument("-f", "--folder", type=Path, default=environment.home() / "training")
    card.add_argument("--checkpoints", type=Path, help="FOLDER if left out")
    card.add_argument("target", type=Path, help="the folder of the model")
    card.add_argument("--title", default="Fieldforge small")
    card.add_argument("--hardware", default="", help="a sentence on what it was trained on")
    card.set_defaults(action=_card)


def _add_preparation(action: argparse.ArgumentParser) -> None:
    action.add_argument("--package", type=Path, help="the .deb of the furniture, if it is here")
    action.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    action.add_argument(
        "--generated", type=int, default=1200, help="how many of the project's own shapes join"
    )


def _add_training(action: argparse.ArgumentParser) -> None:
    action.add_argument("-f", "--folder", type=Path, default=environment.home() / "training")
    action.add_argument("-o", "--output", type=Path, help="of checkpoints; FOLDER if left out")
    action.add_argument("--size", choices=("cpu", "gpu"), default="cpu")
    plan_options.add_to(action, "shapes")
    action.add_argument("--groups", type=int, default=4, help="of one set of conditions each")
    action.add_argument(
        "--begin-with",
        type=Path,
        help="a checkpoint whose weights a new run of diffusion begins with",
    )
    action.add_argument("--compile", action="store_true", help="for a graphics card")


def _prepare(options: argparse.Namespace) -> int:
    from ..terminal import ProgressBar
    from .prepare import prepare

    with ProgressBar(always=True) as bar:
        shapes = prepare(
            options.folder,
            options.package,
            options.workers,
            bar.report,
            generated_shapes=options.generated,
            until=options.until,
        )
    print(f"{shapes}: {shapes.stat().st_size / 1e6:.1f} MB")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from ..terminal import ProgressBar
    from .evaluate import KINDS, evaluate

    unknown = sorted(set(options.inputs or ()) - set(KINDS))
    if unknown:
        raise BadInput(f"There is no input {unknown[0]!r}.", f"Choose of: {', '.join(KINDS)}.")
    with ProgressBar(always=True) as bar:
        text = evaluate(
            options.folder,
            options.models,
            options.inputs or KINDS,
            bar.report,
            most=options.most,
            device=options.device,
            samples=options.samples,
        )
    print(text)
    return 0


def _train(options: argparse.Namespace) -> int:
    from .loops import team

    with team(options.device) as members:
        run = _run(options, options.training, members, options.total_minutes, options.minutes)
        plan_options.from_leader(members)(plan_options.outcome(run))
    return 0


def _run(
    options: argparse.Namespace, name: str, members: Any, total_minutes: float, minutes: float
) -> Any:
    """The `loops.Run` of one training, as far as it came."""
    from ..conditions import sentences
    from . import autoencoder, dataset, diffusion, imagining, seeing

    coding = name == "autoencoder"
    small = options.size == "cpu"
    folder, output = options.folder, options.output or options.folder
    say = plan_options.from_leader(members)
    plan = plan_options.plan_of(options, RATES[name], total_minutes=total_minutes, minutes=minutes)
    if coding:
        batch = options.batch or (2 if small else 32)
        recipe = autoencoder.Recipe(
            autoencoder.SIZES[options.size],
            batch,
            cells=3000 if small else 0,
            compiled=options.compile,
        )
        return autoencoder.fit(folder, recipe, plan, members, say, output)
    joint = diffusion.JOINTS[options.size]
    if name == "seeing":
        batch = options.batch or (16 if small else 256)
        return seeing.fit(folder, joint, batch, plan, members, say, output)
    if sentences.available():
        joint = dataclasses.replace(joint, text=sentences.LENGTH)
    if name == "imagining":
        batch = options.batch or (256 if small else 2048)
        size = imagining.SIZES[options.size]
        return imagining.fit(folder, joint, size, batch, plan, members, say, output)
    coder = autoencoder.trained(output / autoencoder.CHECKPOINT)
    denoiser = diffusion.denoiser_config(
        diffusion.DENOISERS[options.size], joint, coder.config.latent_channels
    )
    batch = options.batch or (16 if small else 256)
    # Latents take a fifth of a second each on a processor.
    turns = (0, 2, 4, 6) if small else tuple(range(dataset.SYMMETRIES))
    wanted = diffusion.Recipe(denoiser, joint, batch, options.groups, symmetries=turns)
    return diffusion.fit(folder, coder, wanted, plan, members, say, output, options.begin_with)


def _everything(options: argparse.Namespace) -> int:
    from .loops import team
    from .prepare import prepare

    begun = time.monotonic()
    with team(options.device) as members:
        say = plan_options.from_leader(members)
        if members.leads:
            report = _every_tenth(say)
            prepare(
                options.folder,
                options.package,
                options.workers,
                report,
                generated_shapes=options.generated,
            )
        members.agreed(True)  # all wait for what the first makes
        for name, share in SHARES.items():
            left = options.minutes - (time.monotonic() - begun) / 60
            if options.minutes and not members.agreed(left > 0):
                break
            total = options.total_minutes * share / sum(SHARES.values())
            run = _run(options, name, members, total, left if options.minutes else 0)
            say(f"{name}: {plan_options.outcome(run)}")
            if not run.steps or run.step < run.steps:
                break
        else:
            if members.leads:
                _write_pieces(options.output or options.folder, _checkpoints(), options.pieces)
            return 0
        say("Not done yet: the same command goes on.")
    return 0


def _every_tenth(say: Callable[[str], None]) -> Callable[[str, float], None]:
    """Of what is reported, a line per stage and tenth: it may go to a file."""
    said: set[tuple[str, int]] = set()

    def report(stage: str, fraction: float) -> None:
        if (tenth := (stage, int(10 * fraction))) not in said:
            said.add(tenth)
            say(f"{stage}: {fraction:.0%}")

    return report


def _checkpoints() -> list[str]:
    from . import autoencoder, diffusion, imagining, seeing

    return [module.CHECKPOINT for module in (autoencoder, seeing, imagining, diffusion)]


def _write_pieces(folder: Path, names: Sequence[str], target: Path) -> None:
    from . import export

    for name in names:
        with tempfile.TemporaryDirectory() as place:
            small = Path(place) / name
            export.averaged_only(folder / name, small)
            for piece in export.split(small, target):
                print(piece)


def _export(options: argparse.Namespace) -> int:
    from . import export

    if options.pieces:
        _write_pieces(options.folder, options.pieces, options.target)
        return 0
    if options.join:
        for name in options.join:
            print(export.join(options.folder, name, options.target))
        return 0
    card = options.card.read_text(encoding="utf-8") if options.card else ""
    installed = export.export(
        options.folder,
        options.target,
        title=options.title,
        license=options.license,
        source={},
        card=card,
        steps=options.steps,
        guidance=options.guidance,
        tasks=tuple(options.tasks or export.TASKS),
        default_for=tuple(options.default_for),
    )
    print(f"{installed.folder}: {sum(p.stat().st_size for p in installed.files) / 1e6:.1f} MB")
    return 0


def _card(options: argparse.Namespace) -> int:
    from . import model_card

    checkpoints = options.checkpoints or options.folder
    for path in model_card.write(
        options.folder, checkpoints, options.target, options.title, options.hardware
    ):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
