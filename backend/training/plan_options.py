"""What all trainings can be told on the command line: how long, how fast, on what."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def add_to(action: argparse.ArgumentParser, what: str) -> None:
    """what: a step of one process has so many of."""
    action.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    action.add_argument("--batch", type=int, help=f"{what} in a step of one process")
    action.add_argument("--steps", type=int, default=0, help="of the whole training")
    action.add_argument(
        "--total-minutes", type=float, default=0, help="of the whole training, without --steps"
    )
    action.add_argument("--minutes", type=float, default=0, help="of this call; it goes on")
    action.add_argument("--rate", type=float, help="of learning, at its highest")
    action.add_argument("--seed", type=int, default=0)


def plan_of(options: argparse.Namespace, rate: float, **more: Any) -> Any:
    """The `loops.Plan` that was asked for; rate: where none was. more: of its other fields, which
    also come before what the options say."""
    from .loops import Plan

    told = {
        "steps": options.steps,
        "total_minutes": options.total_minutes,
        "minutes": options.minutes,
        "rate": options.rate or rate,
        "seed": options.seed,
    }
    return Plan(**{**told, **more})


def from_leader(members: Any) -> Callable[[str], None]:
    """Prints lines, from one process of all."""
    return (lambda line: print(line, flush=True)) if members.leads else (lambda line: None)


def outcome(run: Any) -> str:
    """How far a training came."""
    return f"{run.path}: step {run.step} of {run.steps or '?'}, {run.seconds:.0f} s"
