"""The VQ-VAE's training on two boxes: losses, the codebook, pieces of a run."""

import dataclasses
import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional

from backend.geometry import wavelets
from backend.models.wala.config import AutoencoderConfig
from backend.models.wala.losses import Cells, reconstruction_loss
from backend.models.wala.vqvae import Quantiser, VqVae
from backend.training import autoencoder, packed, trees
from backend.training.autoencoder import Recipe
from backend.training.loops import Plan, Team, read_checkpoint
from backend.training.packed import Shape
from backend.training.prepare import key_of

ALONE = Team(torch.device("cpu"))
TINY = AutoencoderConfig(widths=(32, 32, 32), codes=16)


def box(x, y, z):
    axis = 2 * torch.arange(256) / 256 - 1
    nodes = torch.meshgrid(axis, axis, axis, indexing="ij")
    sides = [n.abs() - size for n, size in zip(nodes, (x, y, z), strict=True)]
    return torch.maximum(torch.maximum(*sides[:2]), sides[2]).clamp(-0.1, 0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    (folder / "trees").mkdir()
    shapes = [Shape(str(n), "a box", "a", "train", "", family=str(n)) for n in range(2)]
    packed.write(folder / "shapes.ffs", [(shape, b"") for shape in shapes])
    for shape, sides in zip(shapes, ((0.9, 0.3, 0.5), (0.4, 0.9, 0.4)), strict=True):
        trees.tree_of_field(box(*sides)).save(folder / "trees" / f"{key_of(shape.id)}.npz")
    return folder


def a_tree(folder):
    return next(
        trees.SparseTree.load(path).packed()[None] for path in sorted((folder / "trees").iterdir())
    )


def test_losses_are_those_of_lists_of_cells(folder):
    target = a_tree(folder)
    predicted = target + 0.1 * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    low, near, coarse, middle = autoencoder.adaptive_losses(
        predicted, target, torch.Generator().manual_seed(5)
    )
    significant = autoencoder.significant_cells(target)
    tree = wavelets.unpack(target[0], 256)
    assert torch.equal(significant[0], wavelets.significant_cells(tree))
    chance = torch.rand(significant.shape, generator=torch.Generator().manual_seed(5))
    count = int(significant.sum())
    others = (chance < count / 46**3)[0].nonzero()
    assert len(others) == pytest.approx(count, rel=0.15)
    # Lists must be as long as one another there: the rest is cut off, and counted by itself.
    rows = min(count, len(others))
    cells = significant[0].nonzero()
    error = (predicted - target)[0].square()
    listed = Cells(cells[None, :rows], others[None, :rows], torch.ones(1, rows))
    loss = reconstruction_loss(predicted, target, listed, balanced=False)
    rest = [*cells[rows:], *others[rows:]]
    for found, mean, part in (
        (coarse, loss.levels[0], error[57:]),
        (middle, loss.levels[1], error[1:57]),
    ):
        more = sum(float(part[:, x, y, z].sum()) for x, y, z in rest)
        assert float(found) == pytest.approx((float(mean) * rows + more) / count, rel=1e-4)
    assert float(low) == pytest.approx(float(loss.low), rel=1e-5)
    assert float(near) == pytest.approx(float(error[0][significant[0]].mean()), rel=1e-4)


class Small(VqVae):
    """The same parts by the same names, a thousandth of the work."""

    def __init__(self, config):
        nn.Module.__init__(self)
        self.config = config
        self.quantize = Quantiser(config)
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.out_conv = nn.Sequential(nn.Conv3d(64, 4, 1))
        self.decoder.in_conv = nn.Conv3d(4, 64, 1)

    def encode(self, volume):
        return self.encoder.out_conv(functional.adaptive_avg_pool3d(volume, 12))

    def decode(self, latent, window=None):
        return functional.interpolate(self.decoder.in_conv(latent), size=(46, 46, 46))

    def decode_unquantised(self, latent):
        return self.decode(self.quantize(latent).latent)


@dataclasses.dataclass(frozen=True)
class Stopping(Team):
    """A process whose time is over after so many steps of a call."""

    steps: Iterator[int] = ()

    def agreed(self, value):
        return next(self.steps, None) is None


def trained(folder, output, *calls):
    """A run of 8 steps, the later ones with the codebook, in calls that end at these steps."""
    lines: list[str] = []
    plan = Plan(steps=8, warm_up=2, rate=1e-1)
    for begin, end in itertools.pairwise((0, *calls)):
        members = Stopping(torch.device("cpu"), steps=iter(range(end - begin - 1)))

        run = autoencoder.fit(folder, Recipe(TINY, batch=1), plan, members, lines.append, output)
        assert run.step == end
    return read_checkpoint(output / autoencoder.CHECKPOINT), lines


def test_a_training_in_pieces_gives_the_same_bytes_and_learns(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoder, "VqVae", Small)
    whole, lines = trained(folder, tmp_path / "whole", 8)
    parts, _ = trained(folder, tmp_path / "parts", 1, 5, 8)
    for kind in ("module", "average"):
        assert all(torch.equal(whole[kind][n], parts[kind][n]) for n in whole[kind])
    assert whole["extra"]["coded"] == 1
    assert torch.equal(whole["extra"]["scale"], parts["extra"]["scale"])
    assert lines[-1] == "autoencoder: done"
    assert int(whole["extra"]["usage"].sum()) == 5 * 12**3
    model = autoencoder.trained(tmp_path / "whole" / autoencoder.CHECKPOINT)
    torch.manual_seed(0)
    target = a_tree(folder)
    with torch.no_grad():
        error = (model.decode_unquantised(model.encode(target)) - target)[:, 0].square().mean()
        fresh = Small(TINY)
        before = (fresh.decode_unquantised(fresh.encode(target)) - target)[:, 0].square().mean()
    assert error < 0.7 * before


def test_scaled_latents_decode_to_the_same(folder):
    torch.manual_seed(0)
    model = VqVae(TINY).eval().requires_grad_(False)
    model.quantize.embedding.weight.normal_()
    target = a_tree(folder)
    latent = model.encode(target)
    decoded, codes = model.decode_unquantised(latent), model.quantize(latent).indices
    autoencoder.rescale(model, torch.tensor(3.7))
    assert torch.allclose(model.encode(target) * 3.7, latent, atol=1e-5)
    assert torch.equal(model.quantize(model.encode(target)).indices, codes)
    assert torch.allclose(model.decode_unquantised(model.encode(target)), decoded, atol=1e-4)


def test_k_means_finds_clusters():
    draws = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    vectors = (centres[:, None] + 0.1 * torch.randn(4, 50, 2, generator=draws)).flatten(0, 1)
    found = autoencoder.kmeans(vectors, 8, draws)
    nearest = torch.cdist(centres, found).amin(dim=1)
    assert (nearest < 0.3).all()


def test_unused_codes_go_where_latents_are(tmp_path):
    run = autoencoder.begin(Recipe(TINY, batch=1), Plan(steps=4), ALONE, tmp_path / "a.pt")
    run.extra["usage"][:3] = 1
    before = run.module.quantize.embedding.weight.detach().clone()
    latent = torch.full((1, 4, 12, 12, 12), 7.0)
    autoencoder._revive(run, latent, torch.Generator().manual_seed(0), ALONE)
    after = run.module.quantize.embedding.weight.detach()
    assert torch.equal(after[:3], before[:3])
    assert (after[3:] == 7).all()
    assert run.extra["usage"].sum() == 0


def test_metrics_of_a_perfect_decoder(folder):
    class Perfect(torch.nn.Module):
        """Hands its tree through."""

        def encode(self, volume):
            self.volume = volume
            return torch.zeros(1, 4, 12, 12, 12)

        def quantize(self, latent):
            return VqVae(TINY).quantize(latent)

        def decode(self, latent):
            return self.volume

    from backend.training import dataset

    found = autoencoder.metrics(Perfect(), dataset.load(folder, "train"), torch.device("cpu"))
    assert found["iou"] == found["iou_unquantised"] == 1.0
    assert found["shapes"] == 2
