"""The VQ-VAE's training on two boxes: losses, the codebook, pieces of a run."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from backend.models.wala import compact
from backend.models.wala.config import AutoencoderConfig, CompactConfig
from backend.models.wala.vqvae import VqVae
from backend.training import autoencoder, dataset, packed, trees
from backend.training.autoencoder import Recipe
from backend.training.loops import Plan, Team, read_checkpoint
from backend.training.packed import Shape
from backend.training.prepare import key_of

ALONE = Team(torch.device("cpu"))
TINY = AutoencoderConfig(
    codes=64,
    groups=2,
    compact=CompactConfig(64, (8, 16), encoder_blocks=(1, 1), decoder_blocks=(1, 1)),
)


def box(x, y, z):
    axis = 2 * torch.arange(256) / 256 - 1
    nodes = torch.meshgrid(axis, axis, axis, indexing="ij")
    sides = [n.abs() - size for n, size in zip(nodes, (x, y, z), strict=True)]
    return torch.maximum(torch.maximum(*sides[:2]), sides[2]).clamp(-0.1, 0.1)


RECIPE = Recipe(TINY, batch=1, cells=2000)


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


def test_tokens_are_those_of_dense_trees(folder):
    trees_of = dataset.load(folder, "train")
    for symmetry in (0, 3, 4, 6):
        dense = dataset.turned(trees_of.batch([0, 1]), symmetry)
        wanted = compact.tokens_of_trees(dense, torch.tensor(2.25))
        assert torch.equal(trees_of.tokens([0, 1], symmetry, 2.25), wanted)


def test_the_loss_counts_tokens_that_matter_and_as_many_others():
    target = torch.zeros(1, 2, 24, 24, 24)
    near = torch.zeros(1, 24, 24, 24, dtype=torch.bool)
    near[0, :3] = True
    draws = torch.Generator().manual_seed(0)
    off_surface = target.clone()
    off_surface[:, 0, 3:] = 1
    on_surface = target.clone()
    on_surface[:, 0, :3] = 1
    losses = [
        float(autoencoder.adaptive_loss(predicted, target, near, draws))
        for predicted in (target, on_surface, off_surface)
    ]
    # An eighth of the tokens matters: others are drawn among all, the eighth of which matters, too.
    assert losses[0] == 0
    assert losses[1] == pytest.approx(1 + 1 / 8, rel=0.05)
    assert losses[2] == pytest.approx(7 / 8, rel=0.05)


def test_a_cut_keeps_the_surface_and_is_as_small_as_wanted():
    tokens = torch.zeros(1, 24, 24, 24, 512)
    tokens[0, 6:15, 4:9, 10:12, 0] = 1
    rng = np.random.default_rng(0)
    whole = autoencoder.cut(tokens, 24**3, rng)
    assert whole[..., 0].sum() == tokens[..., 0].sum()
    assert whole.shape[1:4] == (14, 10, 6)
    assert all(side % 2 == 0 for side in whole.shape[1:4])
    small = autoencoder.cut(tokens, 400, rng)
    assert np.prod(small.shape[1:4]) <= 400
    assert all(side % 2 == 0 for side in small.shape[1:4])
    assert autoencoder.cut(torch.zeros_like(tokens), 400, rng)[..., 0].numel() <= 400


def test_the_linear_code_is_the_best_one(folder, tmp_path):
    """As good as scikit-learn's principal components, and exact where there are as many as data."""
    trees_of = dataset.load(folder, "train")
    torch.manual_seed(0)
    model = VqVae(dataclasses.replace(TINY, compact=CompactConfig(256, (8, 8), (0, 0), (0, 0))))
    autoencoder.start_linear(model, trees_of, seed=0)
    target = a_tree(folder)
    components = model.basis.components(target)
    again = model.basis.trees(components)
    near = autoencoder.holds_surface(compact.tokens_of_trees(target, model.basis.empty))
    tokens = compact.tokens_of_trees(target, model.basis.empty)[near]
    rest = tokens - compact.tokens_of_trees(again, model.basis.empty)[near]
    assert rest.square().sum() < 2e-3 * tokens.square().sum()
    field, back = (trees.field_of(tree)[0] < 0 for tree in (target, again))
    assert autoencoder.intersection_over_union(field, back) > 0.97
    # Latents have the variances that were wanted: falling, by half the power of the components'.
    latent = model.encoder.linear(components).flatten(2)
    spread = latent.square().mean(dim=(0, 2))
    assert (spread[0] > spread[1:]).all()


@dataclasses.dataclass(frozen=True)
class Stopping(Team):
    """A process whose time is over after so many steps of a call."""

    steps: Iterator[int] = ()

    def agreed(self, value):
        return next(self.steps, None) is None


def trained(folder, output, *calls):
    """A run of 8 steps, the later ones with the codebook, in calls that end at these steps."""
    lines: list[str] = []
    plan = Plan(steps=8, warm_up=2, rate=2e-3)
    for begin, end in itertools.pairwise((0, *calls)):
        members = Stopping(torch.device("cpu"), steps=iter(range(end - begin - 1)))

        run = autoencoder.fit(folder, RECIPE, plan, members, lines.append, output)
        assert run.step == end
    return read_checkpoint(output / autoencoder.CHECKPOINT), lines


def test_a_training_in_pieces_gives_the_same_bytes_and_learns(folder, tmp_path):
    whole, lines = trained(folder, tmp_path / "whole", 8)
    parts, _ = trained(folder, tmp_path / "parts", 1, 5, 8)
    for kind in ("module", "average"):
        assert all(torch.equal(whole[kind][n], parts[kind][n]) for n in whole[kind])
    assert whole["extra"]["codebooks"] == 2
    assert torch.equal(whole["extra"]["scale"], parts["extra"]["scale"])
    assert lines[-1] == "autoencoder: done"
    model = autoencoder.trained(tmp_path / "whole" / autoencoder.CHECKPOINT)
    target = a_tree(folder)
    with torch.no_grad():
        latent = model.encode(target)
        found = trees.field_of(model.decode_unquantised(latent)) < 0
    assert autoencoder.intersection_over_union(found, trees.field_of(target) < 0) > 0.8
    latents = autoencoder.latents_of(model, dataset.load(folder, "train"), ALONE.device, 0)
    assert float(latents.std()) == pytest.approx(1, abs=0.02)


def test_scaled_latents_decode_to_the_same(folder):
    torch.manual_seed(0)
    model = VqVae(TINY).eval()
    autoencoder.start_linear(model, dataset.load(folder, "train"), seed=0)
    for parameter in model.requires_grad_(False).parameters():
        parameter += 0.01 * torch.randn_like(parameter)
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


def test_codes_lie_where_latents_lie(folder, tmp_path):
    shapes = dataset.load(folder, "train")
    run = autoencoder.begin(RECIPE, Plan(steps=5), ALONE, tmp_path / "a.pt", shapes)
    run.step = 3
    autoencoder.find_codes(run, shapes, ALONE)
    assert run.extra["codebooks"] == 1
    latent = autoencoder.latents_of(run.module, shapes, ALONE.device, 0)
    lost = (run.module.quantize(latent).latent - latent).square().mean()
    assert lost < 0.02 * latent.square().mean()
    averaged = run.average.weights["quantize.embedding.weight"]
    assert torch.equal(averaged, run.module.quantize.embedding.weight)


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

    found = autoencoder.metrics(Perfect(), dataset.load(folder, "train"), torch.device("cpu"))
    assert found["iou"] == found["iou_unquantised"] == 1.0
    assert found["shapes"] == 2
