"""Training of the diffusion: latents under any of several conditions.

Every step takes a few groups of shapes, and each group its own set of conditions, drawn anew: most
often one kind, at times two, at times none. Within a group some samples lose them, which is what
guidance needs. The autoencoder is frozen, and its latents are computed once, for all symmetries.

What says where something is (points, voxels) goes with shapes turned any way; pictures of a
mirrored shape are the mirrored pictures; words stay true of mirrored shapes.

What sees pictures was trained before (`seeing`) and stays as it is; here it is learned what to make
of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..conditions import sentences
from ..models.wala.config import JointConfig, UVitConfig, WalaConfig
from ..models.wala.joint import JointEncoder
from ..models.wala.uvit import UVit
from ..models.wala.vqvae import VqVae
from ..sampling import Diffusion
from . import dataset, seeing
from .autoencoder import autocast, latents_of
from .conditions import Conditions, captions, cells_of
from .dataset import SYMMETRIES, Sampler
from .loops import Plan, Run, Team, read_checkpoint, train
from .packed import Shape
from .prepare import key_of

CHECKPOINT = "diffusion.pt"
LATENTS = "latents.pt"
CHANCES = {
    "points": 0.22,
    "voxels": 0.1,
    "image": 0.24,
    "sketch": 0.16,
    "depth": 0.1,
    "views": 0.08,
    "words": 0.05,
    "text": 0.05,
}
"""How often a kind is the first of a group."""
_SECOND = 0.1
_NOTHING = 0.05
_DROPPED = 0.1
_PLACED = {"points", "voxels"}
_MOST_WORDS = 512
_LEARNED_OF_PICTURES = ("out.", "placed.")

DENOISERS = {
    "cpu": UVitConfig(width=192, depth=6, heads=3, channels=64, residual_blocks=1),
    "gpu": UVitConfig(width=320, depth=8, heads=5, channels=96, residual_blocks=2),
}
JOINTS = {
    "cpu": JointConfig(channels=256, image_width=192, image_depth=4, image_heads=4),
    "gpu": JointConfig(channels=512, grid_width=96, image_width=256, image_depth=6, image_heads=4),
}


def denoiser_config(base: UVitConfig, joint: JointConfig, latent_channels: int) -> UVitConfig:
    """`base`, under the conditions of `joint`."""
    return dataclasses.replace(
        base,
        latent_channels=latent_channels,
        context_channels=joint.channels,
        cross_attention=True,
        placed=True,
        margin=2,
        registers=4,
        time_condition=True,
        residual_condition=128,
    )


class Network(nn.Module):
    """What is trained: the encoder of the conditions and the denoiser."""

    def __init__(self, denoiser: UVitConfig, joint: JointConfig) -> None:
        super().__init__()
        self.denoiser = UVit(denoiser)
        self.joint = JointEncoder(joint)


@dataclass(frozen=True)
class Recipe:
    """batch: of one process, in `groups` of one set of conditions each."""

    denoiser: UVitConfig
    joint: JointConfig
    batch: int
    groups: int = 4
    diffusion: Diffusion = dataclasses.field(default_factory=Diffusion)
    points: int = 4096
    symmetries: tuple[int, ...] = tuple(range(SYMMETRIES))
    """Of SYMMETRIES, those whose latents are kept."""


# ------------------------------------------------------------------------------------------- data


class ConditionSet:
    """The conditions of shapes, in their order, as bytes on a device."""

    def __init__(
        self,
        shapes: tuple[Shape, ...],
        conditions: list[Conditions],
        words: tuple[str, ...],
        spoken: torch.Tensor | None = None,
    ) -> None:
        """spoken: (N, K, length) sentence vectors of captions, where they are used."""
        points = ("clean", "noisy", "scans", "scan_frames")
        names = (*points, "voxels", "shaded", "drawings", "depths", "views")
        self._arrays = {
            name: torch.from_numpy(np.stack([getattr(entry, name) for entry in conditions]))
            for name in names
        }
        self._words = torch.stack([multi_hot(_text_of(shape), words) for shape in shapes])
        if spoken is not None:
            self._arrays["text"] = spoken

    def to(self, device: torch.device) -> ConditionSet:
        """The same set, moved there."""
        self._arrays = {name: array.to(device) for name, array in self._arrays.items()}
        self._words = self._words.to(device)
        return self

    def sources(
        self,
        kinds: tuple[str, ...],
        chosen: np.ndarray,
        symmetry: int,
        points: int,
        rng: np.random.Generator,
    ) -> dict[str, torch.Tensor]:
        """What JointEncoder takes, of the shapes `chosen` (B,), turned by `symmetry`."""
        take = torch.from_numpy(chosen).to(self._words.device)
        found: dict[str, torch.Tensor] = {}
        for kind in kinds:
            if kind == "points":
                found[kind] = dataset.turned_points(self._points(take, points, rng), symmetry)
            elif kind == "voxels":
                bits = self._arrays["voxels"][take, int(rng.integers(2))]
                cells = torch.from_numpy(cells_of(bits.cpu().numpy())).to(take.device)
                found[kind] = dataset.turned_cells(cells, symmetry)[:, None]
            elif kind == "words":
                found[kind] = self._words[take]
            elif kind == "text":
                stored = self._arrays["text"]
                caption = torch.from_numpy(rng.integers(stored.shape[1], size=len(take)))
                found[kind] = stored[take, caption.to(take.device)]
            elif kind == "views":
                found[kind], found["view_numbers"] = self._views(take, rng)
            else:
                pictures = as_pictures(self._pictures(kind, take, rng))
                found[kind] = pictures.flip(-1) if symmetry >= 4 else pictures
        return found

    def _views(
        self, take: torch.Tensor, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Some of the views, at least two, and their numbers."""
        stored = self._arrays["views"]
        most = stored.shape[1]
        numbers = torch.from_numpy(rng.permutation(most)[: int(rng.integers(2, most + 1))])
        numbers = numbers.to(take.device)
        return as_pictures(stored[take][:, numbers]), numbers.expand(len(take), -1)

    def _points(self, take: torch.Tensor, count: int, rng: np.random.Generator) -> torch.Tensor:
        """Clouds of one sort, thinned; partial ones in the frame of their shape."""
        sort = ("clean", "noisy", "scans")[int(rng.integers(3))]
        stored = self._arrays[sort][take]
        frames = None
        if sort == "scans":
            number = int(rng.integers(stored.shape[1]))
            stored, frames = stored[:, number], self._arrays["scan_frames"][take, number]
        kept = int(np.exp(rng.uniform(np.log(count / 8), np.log(count))))
        some = torch.from_numpy(rng.choice(stored.shape[1], min(kept, stored.shape[1]), False))
        cloud = stored[:, some.to(take.device)].float() / 32767
        if frames is not None:
            cloud = cloud @ frames[:, :3, :3].mT.float() + frames[:, None, :3, 3].float()
        return cloud

    def _pictures(self, kind: str, take: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        array = self._arrays[{"image": "shaded", "sketch": "drawings", "depth": "depths"}[kind]]
        camera = torch.from_numpy(rng.integers(array.shape[1], size=len(take))).to(take.device)
        return array[take, camera]


def as_pictures(stored: torch.Tensor) -> torch.Tensor:
    """(..., S, S, 3) or (B, S, S) uint8 -> (..., 3, S, S) float32 in [-1, 1]."""
    if stored.shape[-1] != 3:
        stored = stored[..., None].expand(*stored.shape, 3)
    return stored.movedim(-1, -3).float() / 127.5 - 1


def load_conditions(
    folder: Path, shapes: tuple[Shape, ...], words: tuple[str, ...], text: bool = False
) -> ConditionSet:
    """Of FOLDER/conditions. Raises BadInput where a shape has none. text: sentences, too."""
    read = [Conditions.load(folder / "conditions" / f"{key_of(s.id)}.npz") for s in shapes]
    return ConditionSet(shapes, read, words, spoken_captions(shapes) if text else None)


def spoken_captions(shapes: tuple[Shape, ...]) -> torch.Tensor:
    """(N, K, length) float32: sentence vectors of the captions; of fewer than K, some twice."""
    said = [captions(shape) for shape in shapes]
    most = max(map(len, said))
    vectors = sentences.sentence_vectors([phrase for phrases in said for phrase in phrases])
    ends = np.cumsum([len(phrases) for phrases in said])[:-1]
    rows = [np.resize(part, (most, part.shape[1])) for part in np.split(vectors, ends)]
    return torch.from_numpy(np.stack(rows))


def _text_of(shape: Shape) -> str:
    return " ".join((shape.caption, *captions(shape)))


def spoken_words(shapes: tuple[Shape, ...]) -> tuple[str, ...]:
    """The words that captions say most often, at least twice, in alphabetical order."""
    counts: dict[str, int] = {}
    for shape in shapes:
        for word in set(split_words(_text_of(shape))):
            counts[word] = counts.get(word, 0) + 1
    often = sorted(counts, key=lambda word: (-counts[word], word))
    return tuple(sorted(word for word in often[:_MOST_WORDS] if counts[word] > 1))


def split_words(text: str) -> list[str]:
    """Lower case, letters and digits only."""
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def multi_hot(text: str, words: tuple[str, ...]) -> torch.Tensor:
    """(number of words,) float32: 1 for those of `words` that `text` says."""
    said = set(split_words(text))
    return torch.tensor([float(word in said) for word in words])


# ------------------------------------------------------------------------------------------- draws


def draw_kinds(rng: np.random.Generator, text: bool = True) -> tuple[str, ...]:
    """The conditions of a group; none at times. text: whether sentences are among them."""
    if rng.random() < _NOTHING:
        return ()
    names = [name for name in CHANCES if text or name != "text"]
    chances = np.array([CHANCES[name] for name in names])
    count = 2 if rng.random() < _SECOND else 1
    return tuple(rng.choice(names, count, replace=False, p=chances / chances.sum()).tolist())


def draw_symmetry(
    kinds: tuple[str, ...], rng: np.random.Generator, symmetries: tuple[int, ...]
) -> int:
    """How the shapes of a group are turned, such that its conditions can say so."""
    if "views" in kinds:  # their cameras are not symmetric
        return 0
    if kinds and set(kinds) <= _PLACED:
        return int(rng.choice(symmetries))
    return 4 * int(rng.integers(2))


# --------------------------------------------------------------------------------------- training


def fit(
    folder: Path,
    autoencoder: VqVae,
    recipe: Recipe,
    plan: Plan,
    members: Team,
    report: Callable[[str], None],
    output: Path | None = None,
    start: Path | None = None,
) -> Run:
    """Train on FOLDER's trees and conditions into OUTPUT/diffusion.pt, going on where it was.

    Pictures are seen by OUTPUT/seeing.pt. start: the checkpoint of another run, whose weights a new
    one begins with, where it has them.
    """
    trees = dataset.load(folder, "train", device=members.device)
    shapes = trees.shapes
    recipe = dataclasses.replace(
        recipe, joint=dataclasses.replace(recipe.joint, words=spoken_words(shapes))
    )
    report(f"latents of {len(shapes)} shapes")
    kept = (output or folder) / LATENTS
    latents = latent_cache(autoencoder.to(members.device), trees, recipe.symmetries, members, kept)
    text = bool(recipe.joint.text)
    conditions = load_conditions(folder, shapes, recipe.joint.words, text).to(members.device)
    earlier = read_checkpoint(start) if start else None
    before = {"start": earlier["numbers"]["step"]} if earlier else {}
    run = begin(recipe, plan, members, (output or folder) / CHECKPOINT, before)
    if not run.step:
        know_margin(run.module, latents)
        if earlier:
            begin_with(run.module, earlier["average"])
        eyes = (output or folder) / seeing.CHECKPOINT
        begin_with(run.module, seeing.trained(eyes), "joint.pictures.")
        run.average.reset(run.module)
    sampler = Sampler(tuple(s.source for s in shapes), plan.seed, members.rank)

    def work(run: Run) -> dict[str, torch.Tensor]:
        return _step(run, recipe, latents, conditions, sampler, members)

    if train(run, work, members, report):
        report("diffusion: done")
    return run


@torch.no_grad()
def know_margin(network: nn.Module, latents: dict[int, torch.Tensor]) -> None:
    """What the denoiser does not compute becomes the mean of all latents."""
    assert isinstance(network, Network)  # noqa: S101 - it made the run
    if network.denoiser.config.margin:
        whole = torch.stack([part.float().mean(dim=0) for part in latents.values()])
        network.denoiser.rim.copy_(whole.mean(dim=0))


@torch.no_grad()
def begin_with(network: nn.Module, weights: Mapping[str, torch.Tensor], place: str = "") -> None:
    """Take `weights` by their names, below `place`, where the network has such of that shape.

    What reads the guess of pictures begins as what reads voxels.
    """
    own = network.state_dict()
    for name, value in weights.items():
        if place + name in own and own[place + name].shape == value.shape:
            own[place + name].copy_(value)
    for name, value in own.items():
        if name.startswith("joint.guess_in.") and name not in weights and not place:
            value.copy_(own[name.replace("guess_in", "voxels_in")])


def latent_cache(
    model: VqVae,
    trees: dataset.TreeSet,
    symmetries: tuple[int, ...],
    members: Team,
    kept: Path,
) -> dict[int, torch.Tensor]:
    """By symmetry, (N, C, 12, 12, 12) float16 before the codebook; kept in a file."""
    mark = _mark_of(model, trees, symmetries)
    if kept.exists():
        found = torch.load(kept, map_location=members.device, weights_only=True)
        if found.pop("mark") == mark:
            return found
    latents = {
        number: latents_of(model, trees, members.device, number).half() for number in symmetries
    }
    if members.leads:
        record: dict[Any, Any] = dict(latents)
        torch.save(record | {"mark": mark}, kept)
    return latents


def _mark_of(model: VqVae, trees: dataset.TreeSet, symmetries: tuple[int, ...]) -> str:
    """The same for the same weights and shapes."""
    digest = hashlib.sha256(repr((symmetries, [s.id for s in trees.shapes])).encode())
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def begin(
    recipe: Recipe,
    plan: Plan,
    members: Team,
    path: Path,
    before: Mapping[str, int] | None = None,
) -> Run:
    """A run at its beginning, or where its checkpoint left it. before: joins the settings."""
    torch.manual_seed(plan.seed)
    network = Network(recipe.denoiser, recipe.joint).to(members.device)
    for name, parameter in network.joint.pictures.named_parameters():
        parameter.requires_grad_(name.startswith(_LEARNED_OF_PICTURES))
    settings: dict[str, Any] = {
        "denoiser": dataclasses.asdict(recipe.denoiser),
        "joint": dataclasses.asdict(recipe.joint),
        "batch": [recipe.batch, recipe.groups],
        "seed": plan.seed,
        "processes": members.size,
        "steps": plan.steps,
        **(before or {}),
    }
    run = Run(network, plan, path, settings)
    run.resume()
    return run


def _step(
    run: Run,
    recipe: Recipe,
    latents: dict[int, torch.Tensor],
    conditions: ConditionSet,
    sampler: Sampler,
    members: Team,
) -> dict[str, torch.Tensor]:
    """Gradients of one step, summed over its groups."""
    network: Network = run.module  # type: ignore[assignment]
    total = torch.zeros((), device=members.device)
    drawn = sampler.draw(run.step, recipe.batch, balance=0.5)
    for number, chosen in enumerate(np.array_split(drawn, recipe.groups)):
        rng = dataset.generator(run.plan.seed, run.step, members.rank, 2 + number)
        kinds = draw_kinds(rng, bool(recipe.joint.text))
        symmetry = draw_symmetry(kinds, rng, recipe.symmetries)
        sources = conditions.sources(kinds, chosen, symmetry, recipe.points, rng)
        start = latents[symmetry][torch.from_numpy(chosen).to(members.device)].float()
        draws = torch.Generator(members.device).manual_seed(int(rng.integers(2**62)))
        loss = start_loss(network, recipe.diffusion, start, sources, draws) / recipe.groups
        loss.backward()
        total += loss.detach()
    # Parts that no group of this step asked take part in the mean over processes all the same.
    for parameter in network.parameters():
        if parameter.requires_grad and parameter.grad is None and members.size > 1:
            parameter.grad = torch.zeros_like(parameter)
    return {"loss": total}


def start_loss(
    network: Network,
    diffusion: Diffusion,
    start: torch.Tensor,
    sources: dict[str, torch.Tensor],
    draws: torch.Generator,
) -> torch.Tensor:
    """Mean squared error of the x_0 that the network sees in noised latents, at random times; time
    t is as frequent as it is late."""
    count, device = len(start), start.device
    # More of the times when noise hides the shape: only then the condition tells anything.
    chance = torch.rand(count, generator=draws, device=device).sqrt()
    times = (chance * diffusion.steps).long().clamp(max=diffusion.steps - 1)
    noise = torch.randn(start.shape, generator=draws, device=device)
    dropped = torch.rand(count, 1, 1, generator=draws, device=device) < _DROPPED
    noised = diffusion.noised(start, times, noise)
    with autocast(device):
        if sources:
            tokens = network.joint(sources)
            tokens = torch.where(dropped, network.joint.nothing_like(tokens), tokens)
        else:
            tokens = network.joint.nothing(count)
        predicted = network.denoiser(noised, times, tokens)
    return (predicted.float() - start).square().mean()


def wala_config(recipe: Recipe, autoencoder: VqVae) -> WalaConfig:
    """The configuration of the whole model."""
    return WalaConfig(
        autoencoder=autoencoder.config,
        denoiser=recipe.denoiser,
        diffusion=recipe.diffusion,
        joint=recipe.joint,
    )
