"""The training of what imagines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backend.errors import BadInput
from backend.models.wala.config import ImaginedConfig
from backend.models.wala.imagined import CELLS, ImaginedVoxels, solid, values
from backend.training import imagining, seeing
from backend.training.dataset import generator
from backend.training.imagining import Library, shares_of
from backend.training.loops import Plan, Team, train
from backend.training.packed import Shape

ALONE = Team(torch.device("cpu"))
CONFIG = ImaginedConfig(components=8, width=48, depth=2)
WORDS = ("pole", "slab")


def _bits(*sides: tuple[int, int, int]) -> torch.Tensor:
    """Boxes about the middle of 64^3 cells, of so many cells along x, y, z."""
    grids = np.zeros((len(sides), 64, 64, 64), bool)
    for grid, (x, y, z) in zip(grids, sides, strict=True):
        grid[tuple(slice(32 - side // 2, 32 + side // 2) for side in (x, y, z))] = True
    return torch.from_numpy(np.packbits(grids.reshape(len(grids), -1), axis=1))


def _shape(caption: str) -> Shape:
    return Shape(f"a#{caption}", caption, "a", "train", "nobody", caption)


BITS = _bits((24, 56, 24), (56, 16, 56))
SHAPES = (_shape("pole"), _shape("slab"))


def test_shapes_are_kept_as_they_are_and_stretched() -> None:
    shares = shares_of(BITS)
    assert shares.shape == (2, 9, CELLS, CELLS, CELLS)
    assert shares.dtype == torch.uint8
    whole = torch.zeros(CELLS, CELLS, CELLS)
    whole[5:11, 1:15, 5:11] = 255
    assert torch.equal(shares[0, 0].float(), whole)
    volumes = shares[0].float().sum(dim=(1, 2, 3)) / 255
    assert volumes[0] == 6 * 14 * 6
    assert len(volumes.unique()) > 5
    # The longest side stays: 56 of 64 cells along y, to the cell that a border falls into.
    lengths = (shares[0].float().sum(dim=(1, 3)) > 0).sum(dim=1)
    assert lengths.tolist() == [14] * 9
    assert torch.equal(shares, shares_of(BITS))


def test_half_of_the_shapes_are_in_the_mirror() -> None:
    grid = np.zeros((1, 64, 64, 64), bool)
    grid[0, :32, 16:48, 16:48] = True
    bits = torch.from_numpy(np.packbits(grid.reshape(1, -1), axis=1))
    library = Library((_shape("half"),), bits, ("half",), text=False)
    cells = library.cells(np.zeros(400, np.int64), generator(1))
    left = cells[:, 0, :8].sum(dim=(1, 2, 3)) > cells[:, 0, 8:].sum(dim=(1, 2, 3))
    assert 150 < int(left.sum()) < 250
    assert cells.amin() >= 0
    assert cells.amax() <= 1


def test_components_are_the_principal_ones_of_shapes_and_their_mirrors() -> None:
    shares = shares_of(_bits((24, 56, 24), (56, 16, 56), (20, 30, 40)))
    shares[2] = shares[2].roll(3, 1)  # so that the mirror makes a difference
    network = ImaginedVoxels(ImaginedConfig(components=20, width=8, depth=1), 0, 1)
    imagining.know_components(network, shares)
    cells = values(shares.float() / 255).flatten(0, 1)[:, None]
    every = torch.cat([cells, cells.flip(2)])
    found = network.components(every)
    flat = every.flatten(1)
    torch.testing.assert_close(network.mean, flat.mean(dim=0), rtol=0, atol=1e-4)
    singular = torch.linalg.svdvals(flat - flat.mean(dim=0))[:20]
    variances = singular.square() / len(flat)
    own = (found * network.scale).square().mean(dim=0)
    torch.testing.assert_close(own, variances, rtol=1e-2, atol=1e-3)
    assert float(found.square().mean()) == pytest.approx(1, rel=0.01)
    ratios = found.square().mean(dim=0) / variances.sqrt()
    torch.testing.assert_close(ratios[:10], ratios[:1].expand(10), rtol=0.02, atol=0)


def test_it_learns_what_the_words_say(tmp_path: Path) -> None:
    library = Library(SHAPES, BITS, WORDS, text=False)
    plan = Plan(steps=250, warm_up=10, rate=4e-3, average=0.98)
    run = imagining.begin(CONFIG, 0, WORDS, 16, plan, ALONE, tmp_path / imagining.CHECKPOINT)

    imagining.know_components(run.module, library.shares)
    run.average.reset(run.module)

    def work(run: imagining.Run) -> dict[str, torch.Tensor]:
        rng = generator(0, run.step)
        return imagining._step(run, library, rng.integers(0, 2, 16), rng, ALONE)

    assert train(run, work, ALONE, lambda _: None)
    network = run.module.eval()
    network.load_state_dict(imagining.trained(run.path))
    # A cloud of cells that are hardly solid is nothing clear.
    assert imagining.clear_names(network, ["slab", "pole", "slab"], WORDS, 2.0) == [
        *("slab", "pole", "slab")
    ]
    network.mean -= 3
    assert imagining.clear_names(network, ["pole"], WORDS, 2.0) == []
    network.mean += 3
    truth = solid(values(shares_of(BITS)[:, :1].float() / 255))[:, 0]
    for number in range(2):
        made = network.imagine({"words": torch.eye(2)[number : number + 1]}, [1, 2, 3], 2.0)[:, 0]
        overlaps = [
            [(float((one * other).sum() / (one + other).clamp(max=1).sum())) for other in truth]
            for one in made
        ]
        for overlap in overlaps:
            assert overlap[number] > 0.4
            assert overlap[1 - number] < 0.2


def test_names_are_those_that_known_words_tell_of() -> None:
    shapes = tuple(_shape(name) for name in ("pole", "thing", "a", "slab", "pole"))
    assert imagining.names_of(shapes, ("a", "pole", "slab")) == ["a pole", "a slab", "a pole"]


def test_another_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / seeing.CHECKPOINT
    network = torch.nn.Linear(1, 1)
    imagining.Run(network, Plan(steps=1), path, {}).save()
    with pytest.raises(BadInput, match="does not imagine"):
        imagining.trained(path)
