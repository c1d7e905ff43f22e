"""Training of a multi-view diffusion: views of a scene, noised together, are told apart from noise.

One loop for a model of our own, which begins from nothing on pixels, and for Stable Diffusion,
which goes on from its weights on the latents of its autoencoder. Of each scene the first views are
given now and then: they are at timestep 0, as they are when views are made of pictures, and no
part of the loss. (The published training noises them by the schedule's first step, which sampling
then does not.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional

from ...errors import BadInput
from ...models.viewdiff.cameras import Cameras
from ...models.viewdiff.config import ViewDiffConfig
from ...models.viewdiff.first_guess import latents_of, towards
from ...models.viewdiff.model import ViewDiff
from ...models.viewdiff.pixels import PixelLatents
from ...models.viewdiff.schedule import alphas
from ...posed_images import PosedImages
from ..autoencoder import autocast
from ..loops import Plan, Run, Team, read_checkpoint, train
from .networks import SIZES, network
from .scenes import looking_in
from .sources import Source

CHECKPOINT = "views.pt"
_BEGUN = "begun with"

_USUAL_ELEVATION = (-12.0, 45.0)
"""Degrees from which things are mostly pictured."""


@dataclass(frozen=True)
class Recipe:
    """scenes: in a step of one process; parts: batches that a step is computed in, one after the
    other, of so many scenes each. views: of a scene.

    given: how often the first, the second ... view of a scene is given. deep: how often the second
    and later ones come with their depth, as views do that the model made before. novel: how often
    the last view is not carried into space. usual: how often the first view is from where things
    are mostly pictured. in_order: how often views are neighbours in the order of the scene, 1 to 4
    apart. dropped: how often a view's words are left out. mirrored: how often a scene is in the
    mirror. renderer_pace: how much faster the volume renderers learn.
    """

    scenes: int
    views: int
    parts: int = 1
    given: tuple[float, ...] = (0.25, 0.25)
    deep: float = 0.0
    novel: float = 1.0
    usual: float = 0.0
    in_order: float = 0.5
    dropped: float = 0.2
    mirrored: float = 0.0
    renderer_pace: float = 20.0


OWN = {
    "tiny": Recipe(2, 3, given=(1.0, 0.3), deep=0.5, novel=0.5, usual=0.8, in_order=0,
                   mirrored=0.5),
    "cpu": Recipe(2, 4, given=(1.0, 0.3), deep=0.5, novel=0.5, usual=0.8, in_order=0, mirrored=0.5,
                  renderer_pace=3.0),
    "gpu": Recipe(32, 6, given=(1.0, 0.4, 0.2), deep=0.5, novel=0.5, usual=0.8, in_order=0,
                  mirrored=0.5, renderer_pace=3.0),
}  # fmt: skip
"""Of our own model, by the name of its size: it is for pictures, so one is always given."""

PUBLISHED = Recipe(scenes=4, views=5, parts=8)
"""Of the published training, per process of two."""


class Codec(Protocol):
    """Between pictures and what is noised."""

    def encode(self, posed: Sequence[PosedImages], draws: torch.Generator) -> torch.Tensor:
        """(B, V, C, h, w), of scenes of as many views each."""

    def as_given(self, latents: torch.Tensor) -> torch.Tensor:
        """The same where pictures are given by somebody, who knows no depth."""


@dataclass(frozen=True)
class PixelCodec:
    """Of models on pixels."""

    pixels: PixelLatents
    device: torch.device

    def encode(self, posed: Sequence[PosedImages], draws: torch.Generator) -> torch.Tensor:
        pictures = torch.from_numpy(np.stack([scene.images for scene in posed])).to(self.device)
        if not self.pixels.has_depth:
            return self.pixels.encode(pictures)
        depths = [scene.depths for scene in posed if scene.depths is not None]
        places = np.stack([scene.poses[:, :3, 3] for scene in posed])
        return self.pixels.encode(
            pictures,
            torch.from_numpy(np.stack(depths)).to(self.device),
            torch.from_numpy(np.linalg.norm(places, axis=-1)).to(self.device),
        )

    def as_given(self, latents: torch.Tensor) -> torch.Tensor:
        if not self.pixels.has_depth:
            return latents
        known = latents.clone()
        known[..., 4 * self.pixels.patch**2 :, :, :] = 0
        return known


@dataclass(eq=False)
class Parts:
    """What is trained, and with what. words: captions -> (N, L, D), or None for no words;
    settings: of a run, JSON-able."""

    model: ViewDiff
    codec: Codec
    settings: dict[str, Any]
    words: Callable[[Sequence[str]], torch.Tensor] | None = None

    @property
    def config(self) -> ViewDiffConfig:
        return self.model.config


def fresh(
    size: str,
    device: torch.device,
    projection: bool = True,
    seed: int = 0,
    guess: tuple[Mapping[str, torch.Tensor], Mapping[str, Any]] | None = None,
    guesses: bool = True,
    added: bool = False,
) -> Parts:
    """Parts of our own model at their beginning. size: of networks.SIZES. guess: weights of the
    first guess, which stay as they are, and how it was trained; else it learns beside the denoiser.
    projection, guesses: whether there are layers in space, and a first guess. added: the layers
    come to a network that was trained without.
    """
    torch.manual_seed(seed)
    model = network(SIZES[size], projection, guesses, added).to(device)
    codec = PixelCodec(PixelLatents(**dict(model.config.pixels or {})), device)
    settings = {"size": asdict(SIZES[size]), "projection": projection}
    if model.first_guess is not None and guess is not None:
        weights, training = guess
        if training["guess"] != dict(model.config.guess or {}):
            raise BadInput(
                f"The first guess has other sizes: {training['guess']}.",
                f"Train it for this model: views guess --size {size}.",
            )
        model.first_guess.load_state_dict(weights)
        model.first_guess.requires_grad_(False)
        settings["guess"] = {
            **training["numbers"],
            "scenes": training["recipe"]["scenes"],
            "carved": training.get("carved", False),
        }
    return Parts(model, codec, settings)


def going_on(
    path: Path, size: str, device: torch.device, projection: bool = True, seed: int = 0
) -> Parts:
    """Parts that begin with the averaged weights of another training of our own model, its first
    guess among them. Layers in space that it did not have are new. Raises BadInput."""
    before, known = trained(path)
    guesses, added = before.first_guess is not None, projection and not known["projection"]
    parts = fresh(size, device, projection, seed, guesses=guesses, added=added)
    if _of_the_same(before.config, projection) != _of_the_same(
        parts.config, known["projection"]
    ) or (known["projection"] and not projection):
        raise BadInput(
            f"{path} holds a network of other parts, sizes or settings.",
            "Give its --size, and leave out --without-projection if it has layers in space. What"
            " an earlier version made its layers of cannot be gone on with.",
        )
    parts.model.load_state_dict(before.state_dict(), strict=False)
    begun = {
        "numbers": known["numbers"],
        "projection": known["projection"],
        "agreement": before.config.agreement,
        "seed": known["seed"],
        "rate": known["rate"],
        **({_BEGUN: known[_BEGUN]} if _BEGUN in known else {}),
    }
    return _with_beginning(parts, {**known, _BEGUN: begun})


def begun_already(path: Path, size: str, device: torch.device, projection: bool) -> Parts | None:
    """Parts for a training that lies in `path` and began with another one, which need not be there
    any more; None where none such does. Its weights come when it is resumed. Raises BadInput."""
    if not path.exists():
        return None
    known = json.loads(read_checkpoint(path)["settings"])
    if _BEGUN not in known:
        return None
    guesses = known["config"]["guess"] is not None
    added = projection and not known[_BEGUN]["projection"]
    parts = fresh(size, device, projection, guesses=guesses, added=added)
    return _with_beginning(parts, known)


def _with_beginning(parts: Parts, settings: Mapping[str, Any]) -> Parts:
    """The parts, with what settings tell of a first guess, which stays as it is, and of what they
    began with."""
    if parts.model.first_guess is not None and "guess" in settings:
        parts.model.first_guess.requires_grad_(False)
        parts.settings["guess"] = settings["guess"]
    parts.settings[_BEGUN] = settings[_BEGUN]
    return parts


def _of_the_same(config: ViewDiffConfig, layers: bool) -> dict[str, Any]:
    """What must not change when other weights are begun with. layers: whether both have some."""
    record = json.loads(json.dumps(config.to_dict()))
    free = {"agreement"}
    if not (layers and config.has_projection):
        free |= {"combine", "projection", *(name for name in record if name[:11] == "projection_")}
    return {name: value for name, value in record.items() if name not in free}


def steps_before(settings: Mapping[str, Any]) -> int:
    """Of all trainings that one began with, one after the other."""
    before = settings.get(_BEGUN)
    return int(before["numbers"]["step"]) + steps_before(before) if before else 0


# --------------------------------------------------------------------------------------------- data


@dataclass(frozen=True, eq=False)
class Drawn:
    """A scene by chance, as it is trained: its number in the source, whether it is in the mirror,
    and the views that were drawn of it."""

    number: int
    mirrored: bool
    posed: PosedImages


def drawn(source: Source, recipe: Recipe, rng: np.random.Generator, count: int) -> list[Drawn]:
    """`count` scenes by chance, of as many views as the recipe says."""
    found = []
    for number in rng.integers(0, len(source), count):
        place = int(number)
        posed = source.scene(place, _chosen(source, place, recipe, rng))
        turned = bool(rng.random() < recipe.mirrored)
        found.append(Drawn(place, turned, mirrored(posed) if turned else posed))
    return found


def _chosen(source: Source, number: int, recipe: Recipe, rng: np.random.Generator) -> list[int]:
    """Views of a scene, in the order that they are told in."""
    there = source.views(number)
    if there < recipe.views:
        raise BadInput(
            f"A scene has {there} views, fewer than the {recipe.views} that are trained at once.",
            "Train fewer views at once, or leave that scene out.",
        )
    if rng.random() < recipe.in_order:
        step = int(rng.integers(1, 5))
        step = max(1, min(step, (there - 1) // max(1, recipe.views - 1)))
        start = int(rng.integers(there - step * (recipe.views - 1)))
        return [start + step * k for k in range(recipe.views)]
    chosen = rng.permutation(there)
    if rng.random() < recipe.usual:
        back = source.poses(number)[chosen, 2, 2]
        low, high = np.sin(np.radians(_USUAL_ELEVATION))
        usual = np.flatnonzero((back >= low) & (back <= high))
        if len(usual):
            chosen[[0, usual[0]]] = chosen[[usual[0], 0]]
    return [int(view) for view in chosen[: recipe.views]]


def mirrored(posed: PosedImages) -> PosedImages:
    """The scene in a mirror: its world's x, and the columns of its pictures, turned around."""
    poses = posed.poses.copy()
    poses[:, 0] *= -1
    poses[:, :, 0] *= -1
    lens = posed.intrinsics.copy()
    lens[:, 2] = posed.images.shape[2] - 1 - lens[:, 2]
    depths = None if posed.depths is None else posed.depths[:, :, ::-1].copy()
    return PosedImages(posed.images[:, :, ::-1].copy(), poses, lens, posed.names, depths)


_OPENCV = np.diag([1.0, -1, -1, 1])


def cameras_of(
    posed: Sequence[PosedImages], config: ViewDiffConfig, intensity: torch.Tensor | None = None
) -> Cameras:
    """What the network is told of scenes of as many views each; on the CPU.

    intensity: (B, V, 2); None where the model does not ask for it.
    """
    poses = np.stack([scene.poses for scene in posed]).astype(np.float64)
    world2cam = np.linalg.inv(poses @ _OPENCV).astype(np.float32)
    half = torch.full((len(posed), 1, 3), float(config.half_box))
    return Cameras(
        torch.from_numpy(world2cam),
        torch.from_numpy(np.stack([scene.intrinsics for scene in posed])).float(),
        config.image_size,
        torch.cat([-half, half], dim=1),
        torch.zeros(*world2cam.shape[:2], 2) if intensity is None else intensity,
    )


def intensities(posed: Sequence[PosedImages]) -> torch.Tensor:
    """(B, V, 2) float32: mean and unbiased variance of pictures from -1 to 1, alpha on white."""
    values = on_white(torch.from_numpy(np.stack([scene.images for scene in posed]))).flatten(2)
    return torch.stack([values.mean(dim=-1), values.var(dim=-1)], dim=-1)


def on_white(pictures: torch.Tensor) -> torch.Tensor:
    """(.., 3 or 4) uint8, straight alpha -> (.., 3) float32 from -1 to 1, as a model without alpha
    sees them."""
    values = pictures[..., :3].float() / 127.5 - 1
    if pictures.shape[-1] == 3:
        return values
    alpha = pictures[..., 3:].float() / 255
    return alpha * values + (1 - alpha)


# --------------------------------------------------------------------------------------- training


def fit(
    parts: Parts,
    source: Source,
    recipe: Recipe,
    plan: Plan,
    members: Team,
    report: Callable[[str], None],
    path: Path,
    *,
    prior: Prior | None = None,
) -> Run:
    """Train into `path`, going on where it was. Raises BadInput."""
    run = begin(parts, recipe, plan, members, path)
    levels = alphas(parts.config.noising).to(members.device)
    before = steps_before(parts.settings)  # whose draws are not drawn again

    def work(run: Run) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([plan.seed, before + run.step, members.rank])
        total: dict[str, torch.Tensor] = {}
        for _ in range(recipe.parts):
            shown = step(parts, recipe, levels, source, rng, 1 / recipe.parts)
            if prior is not None:
                shown |= step_of_prior(parts, prior, levels, rng, 1 / recipe.parts)
            for name, value in shown.items():
                total[name] = total.get(name, 0) + value / recipe.parts
        return total

    if train(run, work, members, report):
        report("views: done")
    return run


def begin(parts: Parts, recipe: Recipe, plan: Plan, members: Team, path: Path) -> Run:
    """A run at its beginning, or where its checkpoint left it."""
    model = parts.model.to(members.device)
    settings = {
        **parts.settings,
        "config": json.loads(json.dumps(parts.config.to_dict())),
        "recipe": {**asdict(recipe), "given": list(recipe.given)},
        "rate": plan.rate,
        "seed": plan.seed,
        "processes": members.size,
    }
    faster = {name: recipe.renderer_pace for name, _ in model.renderer_parameters()}
    run = Run(model, plan, path, settings, slower=faster)
    for group in run.optimizer.param_groups:
        if group["pace"] == recipe.renderer_pace and faster:
            group["weight_decay"] = 0.0
    run.resume()
    # Its length may be changed as it goes on: a nearer end is where the rate falls to.
    run.steps = plan.steps or run.steps
    return run


def step(
    parts: Parts,
    recipe: Recipe,
    levels: torch.Tensor,
    source: Source,
    rng: np.random.Generator,
    share: float = 1.0,
) -> dict[str, torch.Tensor]:
    """Gradients of `share` of the loss of one batch. levels: of signal, by timestep."""
    device = levels.device
    chosen = drawn(source, recipe, rng, recipe.scenes)
    posed = [one.posed for one in chosen]
    draws = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
    starts = parts.codec.encode(posed, draws)
    given = torch.from_numpy(_given(recipe, rng)).to(device)
    novel = int(rng.random() < recipe.novel)
    deep = rng.random(given.shape) < recipe.deep
    deep[:, 0] = False
    told_of = torch.from_numpy(deep).to(device)[..., None, None, None]
    known = torch.where(told_of, starts, parts.codec.as_given(starts))
    told = intensities(posed) if parts.config.intensity else None
    cameras = cameras_of(posed, parts.config, told).to(device)
    words = None
    if parts.words is not None:
        captions = [source.caption(one.number) for one in chosen]
        words = _told(parts.words, captions, recipe, rng).to(device)
    loss = loss_of(parts, levels, starts, known, given, cameras, words, draws, novel)
    (loss * share).backward()
    return {"loss": loss.detach()}


def _given(recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """(B, V) bool; one view at least is left to make."""
    chances = np.zeros(recipe.views)
    most = min(len(recipe.given), recipe.views - 1)
    chances[:most] = recipe.given[:most]
    found: np.ndarray = rng.random((recipe.scenes, recipe.views)) < chances
    return found


def _told(
    words: Callable[[Sequence[str]], torch.Tensor],
    captions: Sequence[str],
    recipe: Recipe,
    rng: np.random.Generator,
) -> torch.Tensor:
    """(B, V, L, D): the caption of each scene for all its views, left out now and then."""
    known = words([*captions, ""])
    number = np.repeat(np.arange(len(captions))[:, None], recipe.views, axis=1)
    number[rng.random(number.shape) < recipe.dropped] = len(captions)
    return known[torch.from_numpy(number).to(known.device)]


def loss_of(
    parts: Parts,
    levels: torch.Tensor,
    starts: torch.Tensor,
    known: torch.Tensor,
    given: torch.Tensor,
    cameras: Cameras,
    words: torch.Tensor | None,
    draws: torch.Generator,
    novel: int = 0,
) -> torch.Tensor:
    """The mean square error of the views that are not given. starts, and known: what they are where
    they are given, (B, V, C, h, w); given: (B, V) bool; words: (B, V, L, D) or None."""
    device = starts.device
    # Spread evenly over the scenes, from a place by chance.
    place_by_chance = torch.rand(1, generator=draws, device=device)
    shares = torch.arange(len(starts), device=device) / len(starts)
    times = ((place_by_chance + shares) % 1 * len(levels)).long()[:, None]
    times = torch.where(given, 0, times.expand(given.shape))
    noise = torch.randn(starts.shape, generator=draws, device=device)
    level = levels[times][..., None, None, None]
    place = given[..., None, None, None]
    told: dict[str, torch.Tensor] = {}
    if parts.config.guess_noise:
        told["told"] = parts.model.guessed(torch.where(place, known, noise), given, cameras)
        noise = _towards_the_guess(parts, noise, starts, told["told"])
    noised = level.sqrt() * starts + (1 - level).sqrt() * noise
    noised = torch.where(place, known, noised)
    target = target_of(parts.config.schedule, starts, noise, level)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Volume renderers draw noise of their own in training, from torch's one generator.
        torch.manual_seed(draws.initial_seed())
        with autocast(device):
            predicted = parts.model(noised, times, words, cameras, novel=novel, **told)
    error = functional.mse_loss(predicted.float(), target, reduction="none")
    if parts.config.guess_spread:
        # Of the views themselves, as the network tells them: v counts a hundredfold without noise.
        error = error * (1 - level) / parts.config.guess_spread**2
    shown = (~place).float()
    return (error * shown).sum() / (shown.sum() * error[0, 0].numel())


def _towards_the_guess(
    parts: Parts, noise: torch.Tensor, starts: torch.Tensor, told: torch.Tensor
) -> torch.Tensor:
    """Noise that leads to the guess, of which nothing is learned here. Scenes of which nothing is
    given have none and are led to middle grey."""
    if not isinstance(parts.codec, PixelCodec):
        raise ValueError("only models of pixels begin with a guess")
    guess = latents_of(told.detach(), parts.codec.pixels)
    return towards(noise, guess, starts, parts.config.guess_noise)


def target_of(
    schedule: Any, starts: torch.Tensor, noise: torch.Tensor, level: torch.Tensor
) -> torch.Tensor:
    """What is to be predicted, by the schedule's prediction_type."""
    kind = schedule.get("prediction_type", "epsilon")
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return level.sqrt() * noise - (1 - level).sqrt() * starts
    if kind == "sample":
        return starts
    raise BadInput(f"A schedule predicts {kind!r}.", "Use epsilon, v_prediction or sample.")


# ------------------------------------------------------------------------------------------- priors


@dataclass(frozen=True, eq=False)
class Prior:
    """Pictures that the model made before it was trained, so that it forgets less: latents
    (N, C, h, w) of scale one, and their captions."""

    latents: torch.Tensor
    captions: Sequence[str]
    weight: float = 0.1
    batch: int = 4


def step_of_prior(
    parts: Parts, prior: Prior, levels: torch.Tensor, rng: np.random.Generator, share: float
) -> dict[str, torch.Tensor]:
    """Gradients of the loss of single pictures from cameras anywhere, all of it to be made."""
    device = levels.device
    chosen = rng.integers(0, len(prior.latents), prior.batch)
    starts = prior.latents[torch.from_numpy(chosen)][:, None].to(device)
    posed = [_anywhere(rng, parts.config.image_size) for _ in chosen]
    told = torch.zeros(len(chosen), 1, 2)
    told[..., 0] = 0.5
    cameras = cameras_of(posed, parts.config, told).to(device)
    words = None
    if parts.words is not None:
        words = parts.words([prior.captions[k] for k in chosen])[:, None].to(device)
    given = torch.zeros(len(chosen), 1, dtype=torch.bool, device=device)
    draws = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
    loss = loss_of(parts, levels, starts, starts, given, cameras, words, draws)
    (loss * prior.weight * share).backward()
    return {"prior": loss.detach()}


def _anywhere(rng: np.random.Generator, size: int) -> PosedImages:
    """A camera of a ring, as the published training draws it; no picture."""
    pose = looking_in(rng.uniform(0, 360), 90 - rng.uniform(30, 90), rng.uniform(2, 4))
    focal = rng.uniform(565, 590) * size / 512
    lens = np.array([[focal, focal, (size - 1) / 2, (size - 1) / 2]], np.float32)
    return PosedImages(np.zeros((1, 1, 1, 3), np.uint8), pose[None], lens, ("",))


# ------------------------------------------------------------------------------------------ results


def trained(path: Path) -> tuple[ViewDiff, dict[str, Any]]:
    """The model of a checkpoint with its averaged weights, and the settings it was trained with.

    Raises BadInput.
    """
    state = read_checkpoint(path)
    settings = json.loads(state["settings"])
    if "config" not in settings or "recipe" not in settings:
        raise BadInput(f"{path} is no training of views.", "Train one: views train.")
    model = ViewDiff(ViewDiffConfig.from_dict(settings["config"]))
    model.load_state_dict(state["average"])
    return model.eval().requires_grad_(False), {**settings, "numbers": state["numbers"]}
