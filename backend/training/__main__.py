"""`python3 -m backend.training ACTION`: prepare, evaluate."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .. import environment
from ..errors import BadInput, FieldforgeError


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
    prepare.add_argument("--package", type=Path, help="the .deb of the furniture, if it is here")
    prepare.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    prepare.add_argument("-o", "--folder", type=Path, default=environment.home() / "training")
    prepare.add_argument(
        "--generated", type=int, default=1200, help="how many of the project's own shapes join"
    )
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
    evaluate.add_argument("--most", type=int, help="so many shapes only")
    evaluate.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    evaluate.set_defaults(action=_evaluate)
    return parser


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
        )
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
