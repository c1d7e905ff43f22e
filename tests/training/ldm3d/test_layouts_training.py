"""Layouts: rooms are turned to their walls, components are those of the rooms, runs go on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import BadInput
from backend.models.ldm3d.layouts import Layouts
from backend.training import loops
from backend.training.ldm3d import autoencoder, layouts
from backend.training.loops import Plan, Team
from backend.training.rooms.dataset import Rooms, inverse_levels

ALONE = Team(torch.device("cpu"))
RECIPE = layouts.Recipe("tiny", batch=8)
HEIGHT = 64
CAPTIONS = ["360 view of a bedroom with a double bed", "360 view of an office with two desks"]


def silent(line: str) -> None:
    pass


def box_room(turn: float, walls=(-1.7, 2.4, -1.2, 3.1), height: int = HEIGHT) -> np.ndarray:
    """(H, 2 H) metres to a box around an eye; its axes are `turn` to the left of the picture's."""
    latitude = np.pi * (0.5 - (np.arange(height) + 0.5) / height)[:, None]
    longitude = 2 * np.pi * (0.5 - (np.arange(2 * height) + 0.5) / (2 * height))[None] - turn
    x, y, z = (
        np.cos(latitude) * np.cos(longitude),
        np.cos(latitude) * np.sin(longitude),
        np.sin(latitude),
    )
    west, east, south, north = walls
    with np.errstate(divide="ignore"):
        return np.min(
            [
                np.where(x > 0, east / x, west / x),
                np.where(y > 0, north / y, south / y),
                np.where(z > 0, 1.1 / z, -1.4 / z) + 0 * x,
            ],
            axis=0,
        )  # fmt: skip


@given(turn=st.floats(-0.75, 0.75))
def test_the_turn_of_walls_is_found(turn: float) -> None:
    assert layouts.turn_of_walls(box_room(turn)) == pytest.approx(turn, abs=np.radians(1.5))


def test_windows_and_what_stands_about_do_not_matter_much() -> None:
    distance = box_room(0.4)
    distance[20:34, 30:50] = np.inf
    distance[30:50, 70:90] = np.minimum(distance[30:50, 70:90], 0.9)
    assert layouts.turn_of_walls(distance) == pytest.approx(0.4, abs=np.radians(4))


@pytest.fixture(scope="module")
def turned_rooms() -> tuple[Rooms, list[float]]:
    """One room, seen turned by whole columns, twice as many bright ones on one wall."""
    turns = [np.pi / HEIGHT * k for k in (0, 5, -9, 12)]
    plain = box_room(0.0)
    colours = np.repeat(np.uint8(255 * plain / plain.max())[..., None], 3, 2)
    rgb = [np.roll(colours, -round(turn * HEIGHT / np.pi), axis=1) for turn in turns]
    near = [inverse_levels(np.roll(plain, -round(t * HEIGHT / np.pi), axis=1)) for t in turns]
    return Rooms(CAPTIONS * 2, [np.stack(rgb)], [np.stack(near)]), turns


@pytest.fixture(scope="module")
def coder(turned_rooms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("coder")
    recipe = autoencoder.Recipe("tiny", batch=2, columns=64)
    run = autoencoder.fit(turned_rooms[0], recipe, Plan(steps=1), ALONE, silent, folder)
    return autoencoder.trained(run.path)


@pytest.fixture(scope="module")
def latents(turned_rooms, coder, tmp_path_factory) -> np.ndarray:
    path = tmp_path_factory.mktemp("aligned") / "aligned.npy"
    return layouts.aligned(coder, turned_rooms[0], range(4), path, ALONE.device, silent)


def test_rooms_that_differ_by_a_turn_alone_become_the_same(latents: np.ndarray) -> None:
    """To a column of pixels, as turns are rounded to them."""
    spread = latents.astype(np.float32).std()
    for other in latents[1:]:
        assert np.abs(other.astype(np.float32) - latents[0]).mean() < 0.15 * spread


def test_what_is_aligned_is_kept_for_the_same_coder(turned_rooms, coder, tmp_path) -> None:
    path = tmp_path / "a.npy"
    arguments = (turned_rooms[0], range(3), path, ALONE.device)
    said: list[str] = []
    first = np.array(layouts.aligned(coder, *arguments, said.append))
    assert said
    said.clear()
    assert np.array_equal(layouts.aligned(coder, *arguments, said.append), first)
    assert not said
    with torch.no_grad():
        coder.analysis.bias += 1.0
        layouts.aligned(coder, *arguments, said.append)
        coder.analysis.bias -= 1.0
    assert said


def some(count: int = 12) -> np.ndarray:
    """Latents of few directions."""
    rng = np.random.default_rng(2)
    codes, ways = rng.normal(size=(count, 3)), rng.normal(size=(3, 4 * 4 * 8))
    return (codes @ ways).reshape(count, 4, 4, 8).astype(np.float32)


def test_components_hold_latents_of_few_directions_in_all_quarters() -> None:
    given_ = some(1)  # in four quarters three directions, less the mean
    network = Layouts(words=["bed"], latents=[4, 4, 8], **layouts.SIZES["tiny"])
    layouts.know_components(network, given_, 0)
    codes = layouts.coded(network, given_)
    assert codes.shape == (4, 6)
    back = network.latents_of(codes).detach().numpy()
    for quarter in range(4):
        assert np.abs(back[quarter] - np.roll(given_[0], 2 * quarter, axis=-1)).max() < 1e-3


def test_steps_lower_the_loss_and_a_run_in_pieces_is_the_same(tmp_path) -> None:
    def fit(plan: Plan, name: str):
        return layouts.fit(some(), CAPTIONS * 6, RECIPE, plan, ALONE, silent, tmp_path / name)

    whole = fit(Plan(steps=4, warm_up=2), "whole.pt")
    for _ in range(4):
        part = fit(Plan(steps=4, warm_up=2, minutes=1e-9), "part.pt")
    a, b = (loops.read_checkpoint(run.path) for run in (whole, part))
    assert part.step == 4
    assert all(torch.equal(a["average"][name], b["average"][name]) for name in a["average"])
    longer = fit(Plan(steps=120, rate=1e-2, warm_up=2), "longer.pt")
    starts = layouts.coded(longer.module, some())
    said = torch.zeros(len(starts), len(longer.module.config.words))
    losses = [
        float(layouts.step(module, starts, said, np.random.default_rng(0))["loss"])
        for module in (whole.module, longer.module)
    ]
    assert losses[1] < 0.8 * losses[0]
    network = layouts.trained(tmp_path / "longer.pt")
    assert network.imagine("a bedroom", 0).shape == (1, 4, 4, 8)
    assert "bedroom" in network.config.words


def test_an_unfinished_one_is_refused(tmp_path) -> None:
    plan = Plan(steps=4, minutes=1e-9)
    run = layouts.fit(some(), CAPTIONS * 6, RECIPE, plan, ALONE, silent, tmp_path / "a.pt")
    with pytest.raises(BadInput, match="not finished"):
        layouts.trained(run.path)
