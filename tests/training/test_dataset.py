"""Batches of trees, which shapes are drawn, symmetries."""

import numpy as np
import pytest
import torch

from backend.errors import BadInput
from backend.geometry import wavelets
from backend.training import dataset
from backend.training.dataset import Sampler, TreeSet
from backend.training.packed import Shape
from backend.training.trees import SparseTree


def a_tree(seed):
    rng = np.random.default_rng(seed)
    count = 5 + seed
    cells = rng.choice(dataset.CELLS, count, replace=False)
    return SparseTree(
        low=rng.normal(size=(46, 46, 46)).astype(np.float16),
        cells=np.stack(np.unravel_index(cells, (46, 46, 46)), axis=1).astype(np.uint8),
        values=rng.normal(size=(count, 63)).astype(np.float16),
    )


def a_shape(number, source="a"):
    return Shape(
        id=str(number), caption="", source=source, split="train", attribution="", family=str(number)
    )


def test_batches_are_the_packed_trees():
    trees = [a_tree(seed) for seed in range(4)]
    batch = TreeSet([a_shape(n) for n in range(4)], trees).batch([2, 0, 2])
    assert torch.equal(batch, torch.stack([trees[n].packed() for n in (2, 0, 2)]))


def test_sources_have_their_shares():
    sources = ("big",) * 90 + ("small",) * 9 + ("one",)
    sampler = Sampler(sources, seed=3)
    for balance, shares in ((0.0, (90, 9, 1)), (1.0, (100 / 3,) * 3)):
        drawn = [sources[n] for step in range(20) for n in sampler.draw(step, 100, balance)]
        for source, share in zip(("big", "small", "one"), shares, strict=True):
            assert drawn.count(source) / 20 == pytest.approx(share, abs=1)


def test_every_shape_gets_its_turn():
    sampler = Sampler(("a",) * 50, seed=1)
    counts = np.bincount(np.concatenate([sampler.draw(s, 10, 0.0) for s in range(200)]))
    assert len(counts) == 50
    assert counts.min() > 15
    assert counts.max() < 75


def test_draws_depend_on_seed_step_and_rank_only():
    sampler = Sampler(("a",) * 50, seed=1)
    assert (sampler.draw(7, 20, 0.0) == Sampler(("a",) * 50, seed=1).draw(7, 20, 0.0)).all()
    for other in (Sampler(("a",) * 50, seed=2), Sampler(("a",) * 50, seed=1, rank=1)):
        assert (sampler.draw(7, 20, 0.0) != other.draw(7, 20, 0.0)).any()
    assert (sampler.draw(7, 20, 0.0) != sampler.draw(8, 20, 0.0)).any()


def field_at(points):
    """A ball and a box off the middle, clipped."""
    ball = (points - torch.tensor([0.3, 0.1, -0.2])).norm(dim=-1) - 0.4
    box = ((points - torch.tensor([-0.2, -0.3, 0.5])).abs() - torch.tensor([0.5, 0.1, 0.2])).amax(
        -1
    )
    return torch.minimum(ball, box).clamp(-0.1, 0.1)


@pytest.mark.parametrize(("symmetry", "inverse"), [(3, 1), (4, 4), (5, 5)])
def test_turned_trees_are_trees_of_turned_shapes(symmetry, inverse):
    axis = 2 * torch.arange(256) / 256 - 1
    nodes = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    tree = wavelets.pack(wavelets.forward(field_at(nodes)))
    turned = wavelets.forward(field_at(dataset.turned_points(nodes, inverse)))
    found = dataset.turned(tree[None], symmetry)[0]
    assert (found - wavelets.pack(turned)).abs().max() < 1e-5


@pytest.mark.parametrize("symmetry", range(dataset.SYMMETRIES))
def test_cells_turn_as_points_do(symmetry):
    cells = torch.zeros(1, 16, 16, 16)
    cells[0, 3, 5, 12] = 1
    point = (torch.tensor([3.0, 5, 12]) + 0.5) / 8 - 1
    x, y, z = (((dataset.turned_points(point, symmetry) + 1) * 8).floor().long()).tolist()
    turned = dataset.turned_cells(cells, symmetry)
    assert turned[0, x, y, z] == 1
    assert turned.sum() == 1


def test_an_empty_folder(tmp_path):
    with pytest.raises(BadInput, match="holds no shapes"):
        dataset.load(tmp_path, "train")
