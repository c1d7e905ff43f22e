"""`python3 -m backend.training ACTION`: prepare."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .. import environment
from ..errors import FieldforgeError


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


if __name__ == "__main__":
    sys.exit(main())
