"""Sets of shapes, their points and their cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backend.errors import BadInput
from backend.training import packed, trees
from backend.training.fields import data, points, voxels
from backend.training.fields.data import Item, is_seat, items
from backend.training.packed import Shape
from backend.training.prepare import key_of


def _nothing(_stage: str, _fraction: float) -> None:
    pass


def ball_item(name: str, radius: float, frames: int = 1, kind: str = "seat") -> Item:
    """A ball; of several frames one that rises."""

    def depths() -> list[data.Depth]:
        def of(frame: int) -> data.Depth:
            centre = np.array([0, 0.02 * frame, 0], np.float32)
            return lambda places: (
                np.float32(radius) - np.linalg.norm(places - centre, axis=1).astype(np.float32)
            )

        return [of(frame) for frame in range(frames)]

    shape = Shape(name, name, "generated", "train", "made by Fieldforge, CC0-1.0", name)
    return Item(shape, kind, frames, depths)


# ------------------------------------------------------------------------------------------- sets


def test_sides_have_no_shape_in_common() -> None:
    for which, least in (("moving", 240), ("still", 150)):
        train, test = items(which, "train"), items(which, "test")
        assert len(train) >= least
        assert len(test) >= 15
        assert not {item.shape.family for item in train} & {item.shape.family for item in test}
        assert all(item.shape.split == "test" for item in test)
        assert len({item.key for item in train}) == len(train)
    with pytest.raises(BadInput, match="no set 'cars'"):
        items("cars", "train")


def test_seats_are_told_by_their_names() -> None:
    assert is_seat("Office chair, swivel")
    assert is_seat("bar stool".lower())
    assert not is_seat("sofa, seat")
    assert not is_seat("deck chair, swimming, pool")
    assert not is_seat("table")


@pytest.fixture(scope="module")
def furniture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two chairs that are boxes, and a table, packed, with the chairs' trees."""
    folder = tmp_path_factory.mktemp("furniture")
    corners = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij")).reshape(3, -1).T
    faces = np.array(
        [
            [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
            [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3],
        ]
    )  # fmt: skip
    vertices = corners * np.array([0.45, 0.9, 0.3])
    content = packed.encode(vertices, faces)
    shapes = [
        Shape("a#chair", "chair, seat", "a", "train", "Chair (a#chair), A, CC0-1.0", "f 1"),
        Shape("a#other", "chair", "a", "validation", "Other (a#other), A, CC0-1.0", "f 2"),
        Shape("a#table", "table", "a", "train", "Table (a#table), A, CC0-1.0", "f 3"),
    ]
    packed.write(folder / "shapes.ffs", [(shape, content) for shape in shapes])
    (folder / "trees").mkdir()
    tree = trees.tree_of_surface(vertices, faces)
    for shape in shapes[:2]:
        tree.save(folder / "trees" / f"{key_of(shape.id)}.npz")
    return folder / "shapes.ffs"


def test_furniture_is_there_as_it_is_and_stretched(furniture: Path) -> None:
    train = [i for i in items("still", "train", furniture) if i.shape.source != "generated"]
    assert [item.shape.id for item in train] == [
        "a#chair", "a#chair stretched 1", "a#chair stretched 2",
    ]  # fmt: skip
    assert {item.shape.family for item in train} == {"f 1"}
    test = [i for i in items("still", "test", furniture) if i.shape.source != "generated"]
    assert [item.shape.id for item in test] == ["a#other"]
    sizes = []
    for item in train:
        ((vertices, faces),) = item.surfaces(64)
        assert len(faces)
        sizes.append(np.ptp(vertices, axis=0))
        # The longest side fills the domain as it shall.
        assert sizes[-1].max() == pytest.approx(0.95, abs=0.02)
        assert np.abs(vertices).max() < 0.5
    # As it is: 0.9 x 1.8 x 0.6 and a little thicker.
    expected = (np.array([0.9, 1.8, 0.6]) + 2 * data.THICKER) * 0.95 / (1.8 + 2 * data.THICKER)
    np.testing.assert_allclose(sizes[0], expected, atol=0.012)
    assert np.abs(sizes[1] / sizes[0] - 1).max() > 0.03


def test_furniture_without_its_tree_is_refused(furniture: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"\.npz is missing"):
        items("still", "train", furniture, tmp_path)


def test_own_seats_fill_the_domain() -> None:
    for item in items("still", "train")[:3]:
        ((vertices, faces),) = item.surfaces(48)
        assert len(faces)
        assert np.ptp(vertices, axis=0).max() == pytest.approx(0.95, abs=0.04)


# ----------------------------------------------------------------------------------------- points


def test_points_say_what_is_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "PER_SEQUENCE", 4096)
    monkeypatch.setattr(points, "CHECKED", 2048)
    both = [ball_item("small", 0.2, frames=2), ball_item("large", 0.4, frames=2)]
    points.prepare(both, tmp_path, _nothing)
    known = points.load(both, tmp_path)
    assert (len(known), known.frames) == (2, 2)
    draws = torch.Generator().manual_seed(0)
    places, inside = known.batch(torch.tensor([1, 0, 1]), 500, draws)
    assert places.shape == (3, 500, 4)
    centres = torch.zeros(3, 500, 3)
    centres[..., 1] = 0.02 * places[..., 3]
    away = (places[..., :3] - centres).norm(dim=2)
    radius = torch.tensor([0.4, 0.2, 0.4])[:, None]
    clear = (away - radius).abs() > 1e-3
    assert torch.equal((inside > 0)[clear], (away < radius)[clear])
    assert set(places[..., 3].unique().tolist()) == {0.0, 1.0}
    # Half of them lie near the surface.
    assert 0.45 < float(((away - radius).abs() < 0.06)[1].float().mean()) < 0.65
    checked, truth = known.checks(0)
    assert checked.shape == (2048, 4)
    assert float(truth.float().mean()) == pytest.approx(4 / 3 * np.pi * 0.2**3, rel=0.25)


def test_points_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="fields points") as refused:
        points.load([ball_item("none", 0.2)], tmp_path)
    assert "holds no points" in refused.value.cause


def test_cells_are_shares_and_their_surface_is_the_shape(tmp_path: Path) -> None:
    item = ball_item("ball", 0.35, frames=3)
    voxels.prepare([item], tmp_path, _nothing)
    cells = voxels.load([item], tmp_path)
    assert cells.shape == (1, 3, 24, 24, 24)
    volume = 4 / 3 * np.pi * 0.35**3
    assert float(cells[0, 0].float().mean()) / 255 == pytest.approx(volume, rel=0.02)
    values = voxels.values(cells)
    assert float(values.min()) == -1
    assert float(values.max()) == pytest.approx(1, abs=0.02)
    vertices, faces = voxels.surface(values[0, 2].numpy())
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    found = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6
    assert found == pytest.approx(volume, rel=0.15)  # a quarter of a cell is inside already
    assert vertices.mean(axis=0)[1] == pytest.approx(0.04, abs=0.01)
