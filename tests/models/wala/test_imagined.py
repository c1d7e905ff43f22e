"""Voxels of words, or of nothing."""

from __future__ import annotations

import pytest
import torch

from backend.models.wala.config import ImaginedConfig
from backend.models.wala.imagined import (
    CELLS,
    FEWEST,
    FULL,
    LEVEL,
    ImaginedVoxels,
    Known,
    solid,
    values,
)

CONFIG = ImaginedConfig(components=40, width=32, depth=2)


@pytest.fixture(scope="module")
def network() -> ImaginedVoxels:
    """Of chance, its last layers too, which begin as zero; its components are orthogonal."""
    torch.manual_seed(3)
    made = ImaginedVoxels(CONFIG, text=7, words=5)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    made.basis.copy_(torch.linalg.qr(torch.randn(CELLS**3, 40)).Q.mT)
    made.scale.copy_(torch.linspace(9, 1, 40))
    made.mean.fill_(-0.4)
    return made.eval()


def _said(number: int) -> dict[str, torch.Tensor]:
    return {"words": torch.eye(5)[number : number + 1]}


def test_a_shape_is_a_function_of_its_seed_alone(network: ImaginedVoxels) -> None:
    together = network.imagine(_said(1), [5, 6, 7], 2.0)
    assert together.shape == (3, 1, CELLS, CELLS, CELLS)
    assert set(together.unique().tolist()) == {0.0, 1.0}
    alone = network.imagine(_said(1), [6], 2.0)
    assert (alone == together[1:2]).float().mean() > 0.999  # products of batches differ by a bit
    assert (together[0] != together[1]).any()
    assert torch.equal(together, network.imagine(_said(1), [5, 6, 7], 2.0))


def test_what_is_said_counts(network: ImaginedVoxels) -> None:
    first, second = (network.imagine(_said(number), [5], 3.0) for number in (1, 2))
    nothing = network.imagine(None, [5], 3.0)
    spoken = network.imagine({"text": torch.ones(1, 7)}, [5], 3.0)
    found = [first, second, nothing, spoken]
    for number, one in enumerate(found):
        for other in found[:number]:
            assert (one != other).any()
    # Without anything said there is nothing to exaggerate.
    assert torch.equal(nothing, network.imagine({}, [5], 1.0))


def test_conditions_that_it_was_not_made_for_are_refused(network: ImaginedVoxels) -> None:
    with pytest.raises(ValueError, match="not trained on sound"):
        network.condition({"sound": torch.ones(1, 7)})
    with pytest.raises(ValueError, match="nothing is said"):
        network.condition({})
    with pytest.raises(ValueError, match="not trained on text"):
        ImaginedVoxels(CONFIG, text=0, words=5).condition({"text": torch.ones(1, 7)})


def test_what_is_known_stays(network: ImaginedVoxels) -> None:
    share = torch.zeros(CELLS, CELLS, CELLS)
    share[:, :4] = 1
    anew = torch.zeros(CELLS, CELLS, CELLS, dtype=torch.bool)
    anew[8:] = True
    made = network.imagine(_said(1), [5, 6], 2.0, Known(values(share), anew))
    assert (made[:, 0, :8] == share[:8]).all()
    assert (made[0, 0, 8:] != made[1, 0, 8:]).any()


def test_shares_and_values() -> None:
    share = torch.tensor([0.0, FULL / 4, FULL / 2, FULL, 1.0])
    assert values(share).tolist() == pytest.approx([-1, -0.5, 0, 1, 1])


def test_there_is_always_something_solid() -> None:
    cells = torch.full((2, 1, CELLS, CELLS, CELLS), -0.9)
    cells[0, 0, 1, 2] = -0.5
    cells[0, 0, 3, 4, :8] = -0.6
    cells[0, 0, 3, 5] = -0.7
    cells[1, 0, :2] = LEVEL
    cells[1, 0, 2] = LEVEL - 1e-3
    found = solid(cells)
    assert found[0].sum() == FEWEST == 24
    assert found[0, 0, 1, 2].all()
    assert found[0, 0, 3, 4, :8].all()
    assert found[1].sum() == 2 * CELLS**2
    assert (solid(torch.full_like(cells, -1)).flatten(1).sum(dim=1) == FEWEST).all()


def test_components_of_cells_and_back(network: ImaginedVoxels) -> None:
    components = torch.randn(2, 40)
    cells = network.cells(components)
    assert cells.shape == (2, 1, CELLS, CELLS, CELLS)
    torch.testing.assert_close(network.components(cells), components, rtol=0, atol=1e-5)
    # Of what they do not hold, they are the nearest: the rest is orthogonal to them.
    other = torch.randn(2, 1, CELLS, CELLS, CELLS)
    rest = (other - network.cells(network.components(other))).flatten(1)
    assert (rest @ network.basis.mT).abs().max() < 1e-4
