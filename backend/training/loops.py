"""What every training here shares: state that stops and goes on, averages, time budgets, several
processes.

A run is a function of its settings and its seed: every step's draws are made from (seed, step,
rank), and a checkpoint holds all that changes, so that a run in pieces gives the bytes of one in
one piece (on the same kind of device).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from .. import device as devices
from ..errors import BadInput

CALIBRATION = 60
"""Steps after which a run that is given minutes, and no steps, knows how many it will take."""
_SAVE_SECONDS = 120.0


@dataclass(frozen=True)
class Plan:
    """How long, and how fast to learn.

    steps: of the whole run; 0: as many as `total_minutes` hold, measured over its first steps.
    minutes: of this call; it saves and returns when they are over. 0: no limit.
    rate: of learning at its highest; warm_up: steps to it. average: decay of the weights' average.
    constant: the rate stays at its highest. clip: the most that a gradient's norm may be.
    """

    steps: int
    total_minutes: float = 0.0
    minutes: float = 0.0
    rate: float = 1e-3
    warm_up: int = CALIBRATION
    average: float = 0.999
    seed: int = 0
    constant: bool = False
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.steps <= 0 and self.total_minutes <= 0:
            raise BadInput("The training has no length.", "Give --steps or --total-minutes.")

    def rate_at(self, step: int, steps: int) -> float:
        """A linear rise, then half a cosine down to a hundredth. steps: 0 while not known."""
        rise = min(1.0, (step + 1) / self.warm_up)
        if self.constant:
            return self.rate * rise
        done = min(1.0, step / steps) if steps else 0.0
        return self.rate * rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


class Average:
    """A running average of the weights of a module: `weights` by the names of its state dict.

    It begins as the mean, so that early weights count no more than their share.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone().float() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """After step number `step`, from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        own = list(self.weights.values())
        new = [value.detach().float() for value in module.state_dict().values()]
        torch._foreach_lerp_(own, new, 1 - decay)

    def reset(self, module: nn.Module) -> None:
        """Begin anew from the weights as they are."""
        for name, value in module.state_dict().items():
            self.weights[name].copy_(value)

    @contextmanager
    def in_place_of(self, module: nn.Module) -> Iterator[None]:
        """Within, `module` has the averaged weights."""
        kept = {name: value.detach().clone() for name, value in module.state_dict().items()}
        module.load_state_dict(self.weights)
        try:
            yield
        finally:
            module.load_state_dict(kept)


# -------------------------------------------------------------------------------------- processes


@dataclass(frozen=True)
class Team:
    """The processes that train together: one, or as many as torchrun started."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this one writes."""
        return self.rank == 0

    def average(self, module: nn.Module) -> None:
        """Make the gradients of all processes their mean."""
        if self.size == 1:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.size
        for gradient, part in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    def agreed(self, value: bool) -> bool:
        """What process 0 says."""
        if self.size == 1:
            return value
        said = torch.tensor(float(value), device=self.device)
        distributed.broadcast(said, 0)
        return bool(said.item())

    def shared_number(self, value: int) -> int:
        """The number of process 0."""
        if self.size == 1:
            return value
        said = torch.tensor(value, device=self.device, dtype=torch.int64)
        distributed.broadcast(said, 0)
        return int(said.item())


@contextmanager
def team(device: str) -> Iterator[Team]:
    """This process alone on `device` ("auto", "cpu", "cuda"), or its place under torchrun."""
    kind = devices.pick(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team(torch.device(kind))
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    place = torch.device("cuda", local) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield Team(place, distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()


# ------------------------------------------------------------------------------------------- loop


class Run:
    """The state of a training: a module, its optimiser, its average, where it stands.

    extra: tensors and numbers beside, that a training keeps by name.
    slower: beginnings of names of parameters, and how much slower than the others they learn.
    """

    def __init__(
        self,
        module: nn.Module,
        plan: Plan,
        path: Path,
        settings: dict[str, Any],
        slower: Mapping[str, float] | None = None,
    ) -> None:
        self.module, self.plan, self.path = module, plan, path
        self.settings = settings
        self.optimizer = torch.optim.AdamW(
            _by_pace(module, slower or {}),
            lr=plan.rate,
            betas=(0.9, 0.99),
            weight_decay=1e-2,
            fused=next(module.parameters()).device.type == "cuda",
        )
        self.average = Average(module, plan.average)
        self.step, self.steps, self.seconds = 0, plan.steps, 0.0
        self.extra: dict[str, Any] = {}

    @property
    def fraction(self) -> float:
        """How much of the run is done; 0 as long as its length is not known."""
        return self.step / self.steps if self.steps else 0.0

    def save(self) -> None:
        """Written whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "settings": json.dumps(self.settings, sort_keys=True),
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.weights,
            "numbers": {"step": self.step, "steps": self.steps, "seconds": self.seconds},
            "extra": self.extra,
        }
        partial = self.path.with_suffix(".part")
        torch.save(state, partial)
        partial.replace(self.path)

    def resume(self) -> bool:
        """Go on from the file, if there is one. Raises BadInput for one of other settings."""
        if not self.path.exists():
            return False
        state = read_checkpoint(self.path)
        if state["settings"] != json.dumps(self.settings, sort_keys=True):
            raise BadInput(
                f"{self.path} was begun with other settings: {state['settings']}.",
                "Give the same settings to go on, or another folder to begin anew.",
            )
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["average"].items():
            self.average.weights[name].copy_(value)
        self.step = state["numbers"]["step"]
        self.steps = state["numbers"]["steps"]
        self.seconds = state["numbers"]["seconds"]
        device = next(self.module.parameters()).device
        self.extra = {name: _moved(value, device) for name, value in state["extra"].items()}
        return True


def _by_pace(module: nn.Module, slower: Mapping[str, float]) -> list[dict[str, Any]]:
    """Groups of parameters for an optimiser, each with its "pace": its share of the rate."""
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            found = [pace for start, pace in slower.items() if name.startswith(start)]
            groups.setdefault(found[0] if found else 1.0, []).append(parameter)
    return [{"params": members, "pace": pace} for pace, members in groups.items() if members]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `Run.save` wrote, on the CPU. Raises BadInput for anything else."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not {"settings", "module", "average", "numbers", "extra"} <= state.keys():
            raise ValueError("it is of another kind")
    except Exception as error:  # torch raises what it likes for files that are none
        raise BadInput(
            f"{path} is no state of a training ({error}).", "Delete it and train again."
        ) from None
    return state


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def train(
    run: Run,
    work: Callable[[Run], dict[str, torch.Tensor]],
    members: Team,
    report: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    every: int = 50,
) -> bool:
    """Take steps until the plan is fulfilled (True), or this call's minutes are over (False).

    work: makes the gradients of one step, summed into the parameters, and returns what to report.
    The state is saved at the end, and now and then.
    """
    begun = saved = clock()
    before = run.seconds
    while not run.steps or run.step < run.steps:
        for group in run.optimizer.param_groups:
            group["lr"] = group.get("pace", 1.0) * run.plan.rate_at(run.step, run.steps)
        run.optimizer.zero_grad(set_to_none=True)
        shown = work(run)
        members.average(run.module)
        norm = nn.utils.clip_grad_norm_(run.module.parameters(), run.plan.clip)
        run.optimizer.step()
        run.average.update(run.module, run.step)
        run.step += 1
        if run.step == 1 or run.step % every == 0:
            values = {**shown, "gradient": norm}
            words = " ".join(f"{name} {float(value):.5f}" for name, value in values.items())
            report(f"step {run.step} of {run.steps or '?'}, {clock() - begun:.0f} s: {words}")
        now = clock()
        run.seconds = before + now - begun
        if not run.steps and run.step >= CALIBRATION:
            run.steps = members.shared_number(_planned(run))
        over = 0 < run.plan.minutes * 60 <= now - begun
        if members.agreed(over):
            break
        if members.leads and now - saved > _SAVE_SECONDS:
            run.save()
            saved = now
    if members.leads:
        run.save()
    return bool(run.steps) and run.step >= run.steps


def _planned(run: Run) -> int:
    """Steps that fit into the minutes of the plan, at the pace so far."""
    left = run.plan.total_minutes * 60 - run.seconds
    return run.step + max(1, int(0.97 * left / (run.seconds / run.step)))
