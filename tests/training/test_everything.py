"""All trainings by one command, in as many calls as it takes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from backend.training import __main__ as commands
from backend.training import prepare
from backend.training.loops import read_checkpoint

ORDER = ["autoencoder", "seeing", "imagining", "diffusion"]


class Trainings:
    """Stands for the four: each takes `needed` minutes of a clock of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.now, self.prepared = folder, 0.0, 0
        self.needed = dict.fromkeys(ORDER, 4.0)
        self.calls: list[tuple[str, float, float]] = []
        monkeypatch.setattr(commands.time, "monotonic", lambda: 60 * self.now)
        monkeypatch.setattr(commands, "_run", self.run)
        monkeypatch.setattr(prepare, "prepare", self.prepare)

    def prepare(self, *_: object, generated_shapes: int) -> None:
        self.prepared += generated_shapes

    def run(self, options, name: str, members, total: float, minutes: float) -> SimpleNamespace:
        self.calls.append((name, total, minutes))
        spent = min(self.needed[name], minutes) if minutes else self.needed[name]
        self.now += spent
        self.needed[name] -= spent
        numbers = {"step": 1, "steps": 1, "seconds": 60.0}
        state = {"settings": json.dumps({"of": name}), "module": {}, "optimizer": {}}
        average = {"weight": torch.full((3,), ORDER.index(name) + 0.5)}
        path = options.folder / f"{name}.pt"
        torch.save({**state, "average": average, "numbers": numbers, "extra": {}}, path)
        return SimpleNamespace(path=path, step=10 - self.needed[name], steps=10, seconds=60.0)


@pytest.fixture
def trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainings:
    return Trainings(tmp_path, monkeypatch)


def call(trainings: Trainings, *more: str) -> int:
    pieces = ["--pieces", str(trainings.folder / "pieces"), "--total-minutes", "27"]
    return commands.main(["everything", "-f", str(trainings.folder), *pieces, *more])


def test_each_gets_its_share_and_the_pieces_are_what_was_trained(trainings, capsys):
    assert call(trainings, "--generated", "7") == 0
    assert trainings.calls == [
        ("autoencoder", 10.0, 0),
        ("seeing", 6.0, 0),
        ("imagining", 2.0, 0),
        ("diffusion", 9.0, 0),
    ]
    assert trainings.prepared == 7
    assert "goes on" not in capsys.readouterr().out
    joined = [f"{name}.pt" for name in ORDER]
    target = trainings.folder / "joined"
    pieces = str(trainings.folder / "pieces")
    assert commands.main(["export", "-f", pieces, str(target), "--join", *joined]) == 0
    for number, name in enumerate(joined):
        average = read_checkpoint(target / name)["average"]
        assert average["weight"].tolist() == [number + 0.5] * 3


def test_calls_of_limited_minutes_go_on_where_the_last_one_stopped(trainings, capsys):
    outputs = []
    while sum(trainings.needed.values()):
        assert not (trainings.folder / "pieces").exists()
        before = trainings.now
        assert call(trainings, "--minutes", "6") == 0
        assert trainings.now - before <= 6
        outputs.append(capsys.readouterr().out)
    assert [name for name, _, _ in trainings.calls] == [
        *("autoencoder", "seeing"),  # 4 + 2 minutes
        *("autoencoder", "seeing", "imagining"),  # 0 + 2 + 4
        *ORDER,  # the last one's 4
    ]
    assert ["goes on" in said for said in outputs] == [True, True, False]
    assert len(list((trainings.folder / "pieces").iterdir())) == len(ORDER)
