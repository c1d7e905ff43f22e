"""The measurement of neural fields, made small."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from backend.bench import fields
from backend.bench_tables import BENCHES, table
from backend.models.hyperdiffusion import fitting
from backend.models.hyperdiffusion.config import FieldConfig
from backend.models.hyperdiffusion.fitting import Effort

SMALL = fields.Size(
    points=6000,
    check=500,
    side=24,
    mesh_side=96,
    epochs=4,
    look=2,
    efforts=("short",),
    config=FieldConfig(3, 2, (24, 24)),
    published=FieldConfig(3, 2, (24, 24)),
)


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    efforts = {"short": Effort(steps=187, rounds=1, batch=512)}
    monkeypatch.setattr(fitting, "EFFORTS", efforts)
    ball = trimesh.creation.icosphere(2)
    shape = ("ball", (np.asarray(ball.vertices), np.asarray(ball.faces)))
    fitted, surface = fields.rows([shape], SMALL)
    assert fitted["shape"] == "ball"
    assert fitted["effort"] == "short"
    assert fitted["IoU"] > 0.9
    assert fitted["IoU"] > fitted["their IoU"]  # of as many drawn points
    assert fitted["published epochs"] == 4
    assert fitted["times faster"].startswith("> ")
    assert surface["same mesh"] is True
    assert float(surface["times faster"]) > 1
    assert float(surface["nodes evaluated"].rstrip("%")) < 50
    assert "ball" in table([fitted, surface])


def test_what_was_reached_is_said_without_more_than() -> None:
    ours = fitting.Fitted(np.zeros(1), 0.1, 0.9, 5, 2.0, FieldConfig())
    looks = [(2, 3.0, 0.8), (4, 6.0, 0.91), (6, 9.0, 0.95)]
    row = fields._row("it", "good", ours, 0.9, looks)
    assert (row["published epochs"], row["their IoU"], row["times faster"]) == (4, 0.91, "3.0")
    assert row["s of an epoch"] == 1.5
    assert fields._row("it", "good", ours, 0.96, looks)["times faster"] == "> 4.5"


def test_shapes_of_the_examples_and_the_command() -> None:
    assert "fields" in BENCHES
    found = dict(fields.examples())
    assert set(found) == set(fields.CHOSEN)
    assert all(len(faces) for _, faces in found.values())
