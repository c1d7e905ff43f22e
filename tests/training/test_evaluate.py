"""Evaluation goes on where it was, measures right, and shows what it measured."""

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from backend.errors import BadInput
from backend.protocol import check_points
from backend.training import conditions, contact_sheets, evaluate, packed
from backend.training.conditions import Amounts
from backend.training.packed import Shape


def ball_field(radius, resolution=128):
    nodes = (2 * np.arange(resolution) / resolution - 1).astype(np.float32)
    x, y, z = nodes[:, None, None], nodes[None, :, None], nodes[None, None]
    return np.clip(np.sqrt(x * x + y * y + z * z) - np.float32(radius), -0.1, 0.1)


@pytest.fixture(scope="module")
def case():
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.9)
    surface = np.asarray(ball.vertices, np.float32), np.asarray(ball.faces, np.int32)
    field = ball_field(0.9)
    seen = conditions.make("ball", surface, field, 0, Amounts(600, cameras=1, scans=1, side=56))
    shape = Shape("ball", "a ball", "test", "test", "")
    truth = conditions.surface_of_field(field)
    return evaluate.Case(shape, surface, field, truth, seen, Path("no tree"))


def test_tables_sheets_and_going_on(case, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "cases", lambda folder, most=None: iter([case]))
    calls = []

    def made(case, kind, method, device):
        calls.append((kind, method))
        if method == "broken":
            raise BadInput("It does not work.", "Do something else.")
        half = conditions.surface_of_field(ball_field(0.45))
        return [half, case.truth] if method == evaluate.POISSON else [half]

    monkeypatch.setattr(evaluate, "_made", made)
    models, kinds = ["wavelet-fit", "broken"], ["points", "image"]
    quiet = lambda stage, share: None  # noqa: E731
    text = evaluate.evaluate(tmp_path, models, kinds, quiet)
    assert calls == [
        ("points", evaluate.POISSON),
        ("points", "wavelet-fit"),
        ("points", "broken"),
        ("image", "broken"),
    ]
    rows = json.loads((tmp_path / "evaluation" / "tables.json").read_text())
    found = {(row["input"], row["method"]): row for row in rows}
    assert found["points", evaluate.POISSON]["IoU"] == 1  # the better of its two sides
    assert found["points", "wavelet-fit"]["IoU"] == pytest.approx(1 / 8, abs=0.005)
    diagonal = 1.8 * np.sqrt(3)
    assert found["points", "wavelet-fit"]["chamfer"] == pytest.approx(0.45 / diagonal, rel=0.03)
    assert found["points", "broken"]["failed"] == 1
    assert found["points", "broken"]["IoU"] == 0
    assert "screened Poisson" in text
    sheet = np.asarray(Image.open(tmp_path / "evaluation" / "points.png"))
    side = contact_sheets.SIDE
    assert sheet.shape == (side, 5 * side, 3)
    assert (sheet[:, 4 * side :] == 128).all()  # what failed is grey
    dark = [(sheet[:, k * side : (k + 1) * side].min(axis=2) < 240).sum() for k in range(4)]
    assert dark[1] == dark[2]  # the truth, found again
    assert dark[3] < 0.3 * dark[2]  # a ball of half the size
    assert dark[0] > 300
    calls.clear()
    with (tmp_path / "evaluation" / "rows.jsonl").open("a") as file:
        file.write('{"shape": "ba')
    assert evaluate.evaluate(tmp_path, models, kinds, quiet) == text
    assert calls == []


def test_tasks_are_what_an_artist_would_set(case):
    for kind in evaluate.KINDS[1:]:
        task = evaluate.task_of(case, kind, "wavelet-fit")
        task.validate()
        assert task.up_axis == "y"
        assert task.kind.split("-to-")[0] in kind
    points = evaluate.points_of(case, "one-sided points")
    check_points(points)
    assert np.percentile(np.abs(np.linalg.norm(points, axis=1) - 0.9), 95) < 0.03
    # Seen from one side, it has no points on the other.
    eye = np.linalg.inv(np.vstack([case.seen.cameras[0][:12].reshape(3, 4), [0, 0, 0, 1]]))[:3, 3]
    assert (points @ (eye / np.linalg.norm(eye))).min() > 0.1


def test_no_shapes_to_measure_on_is_told(tmp_path):
    packed.write(tmp_path / "shapes.ffs", [])
    with pytest.raises(BadInput, match="test"):
        list(evaluate.cases(tmp_path))


def test_tiles():
    red = np.zeros((20, 10, 4), np.uint8)
    red[:, :5] = [255, 0, 0, 255]
    tile = contact_sheets.tile(red, 40)
    assert tile.shape == (40, 40, 3)
    assert tile[20, 5].tolist() == [255, 0, 0]
    assert tile[20, 35].tolist() == [255, 255, 255]
    row = [tile, tile]
    assert contact_sheets.grid([row, [tile]])[60, 60].tolist() == [255, 255, 255]
    assert contact_sheets.portrait(None).min() == 128
    dots = contact_sheets.points_tile(np.array([[0.0, 0.0, 0.0], [40.0, 0, 0]]), 41)
    assert np.argwhere(dots[..., 0] < 255).tolist() == [[20, 20]]
