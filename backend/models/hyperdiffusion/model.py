"""A model that makes fields of noise: a denoiser, the space that it works in, and what fields are.

Three spaces. "none": the weights as they are, as published. "scalar": less their mean, over one
number, so that they are about as large as the noise. "components": coefficients of few principal
components of the weights, by a perceptron: what is left of the weights are fields near those that
it was trained on, so that it is small, quick, and makes no broken ones.

How near what is made lies to what it was trained on can be asked (`FieldModel.nearest`): models of
this kind, the published ones too, vary their training shapes rather than invent others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ... import sampling, tensor_files, weights
from ...errors import BadInput, FieldforgeError
from ...neural_fields import check_layout
from ...protocol import Progress
from ...sampling import Diffusion
from ..component_denoiser import ComponentsDenoiser
from . import loading
from .config import DenoiserConfig, FieldConfig
from .denoiser import Denoiser
from .diffusion import PUBLISHED_STEPS, weight_diffusion
from .surface import PUBLISHED_LEVEL
from .weights_vector import token_sizes

FAMILY = "hyperdiffusion"
SPACES = ("none", "scalar", "components")
FRAMES = 16
"""Of every animated field, at t = 0, 1 .. 15."""

_REMEDY = "Get the model again, or choose another one."


@dataclass(frozen=True)
class ComponentsConfig:
    """A denoiser of coefficients: a perceptron of `depth` residual blocks of `width`."""

    components: int
    width: int = 256
    depth: int = 3


@dataclass(frozen=True)
class FieldModelConfig:
    """What a model makes, and how.

    space: one of SPACES. level: logit at which surfaces lie. frames: 1 for still shapes, else as
    many at t = 0, 1 ..; fps: of them; loop: whether the last leads back to the first.
    names: kinds that can be asked for; a model has none, or was trained with one for each shape.
    steps: of sampling where nobody says.
    """

    field: FieldConfig
    denoiser: DenoiserConfig | ComponentsConfig
    space: str
    level: float = 0.0
    frames: int = 1
    fps: float = 12.0
    loop: bool = True
    names: tuple[str, ...] = ()
    steps: int = 50

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise ValueError(f"a space {self.space!r}: expected one of {SPACES}")
        if (self.space == "components") != isinstance(self.denoiser, ComponentsConfig):
            raise ValueError(f"the denoiser does not work in the space {self.space!r}")
        if self.moving != (self.field.dimensions == 4) or not 1 <= self.frames <= FRAMES:
            raise ValueError(f"{self.frames} frames of a field over {self.field.dimensions}")
        field = self.field
        try:
            check_layout(
                field.dimensions, field.frequencies, field.hidden, self.frames, field.period
            )
        except FieldforgeError as error:
            raise ValueError(error.cause) from None
        if self.names and self.space != "components":
            raise ValueError("only a denoiser of components can be told names")

    @property
    def moving(self) -> bool:
        return self.frames > 1

    def to_dict(self) -> dict[str, Any]:
        """For model.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> FieldModelConfig:
        """The inverse of `to_dict`. Raises KeyError, TypeError or ValueError for another record."""
        found = dict(record)
        field = found.pop("field")
        found["field"] = FieldConfig(**{**field, "hidden": tuple(field["hidden"])})
        denoiser = found.pop("denoiser")
        if found["space"] == "components":
            found["denoiser"] = ComponentsConfig(**denoiser)
        else:
            found["denoiser"] = DenoiserConfig(**{**denoiser, "tokens": tuple(denoiser["tokens"])})
        found["names"] = tuple(found.get("names", ()))
        return cls(**found)


# ------------------------------------------------------------------------------------------ parts


class NamedDenoiser(ComponentsDenoiser):
    """(coefficients (B, K), timesteps (B,), names (B,) integers, 0 for any) -> those of a field."""

    def __init__(self, config: ComponentsConfig, names: int) -> None:
        super().__init__(config.components, config.width, config.depth)
        self.names = nn.Embedding(names + 1, config.width)

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, named: torch.Tensor
    ) -> torch.Tensor:
        return super().forward(x, timesteps, self.names(named))


class Space(nn.Module):
    """Between weights (B, W) and what is diffused (B, D).

    mean (W,), scale (D,) or (1,), basis (D, W), as far as the space has them.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    basis: torch.Tensor

    def __init__(self, kind: str, weights_count: int, components: int = 0) -> None:
        super().__init__()
        self.kind, self.size = kind, components or weights_count
        if kind != "none":
            self.register_buffer("mean", torch.zeros(weights_count))
            self.register_buffer("scale", torch.ones(components or 1))
        if kind == "components":
            self.register_buffer("basis", torch.zeros(components, weights_count))

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        """(B, W) -> (B, D)."""
        if self.kind == "none":
            return vectors
        centred = vectors - self.mean
        if self.kind == "components":
            centred = centred @ self.basis.mT
        return centred / self.scale

    def decode(self, found: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, W)."""
        if self.kind == "none":
            return found
        found = found * self.scale
        if self.kind == "components":
            found = found @ self.basis
        return found + self.mean


def diffusion_of(space: str) -> Diffusion:
    """Weights as published; coefficients along a cosine, down to noise alone."""
    return Diffusion() if space == "components" else weight_diffusion(PUBLISHED_STEPS)


# ------------------------------------------------------------------------------------------- model


class FieldModel(nn.Module):
    """Makes weight vectors (W,) of fields.

    known: (N, D) what it was trained on, in its space, or (0, D) where that is not told;
    known_names: what each of these is called.
    """

    known: torch.Tensor

    def __init__(
        self, config: FieldModelConfig, known: int = 0, known_names: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.config = config
        self.known_names = tuple(known_names)
        count = sum(token_sizes(config.field))
        if isinstance(config.denoiser, ComponentsConfig):
            self.space = Space(config.space, count, config.denoiser.components)
            self.denoiser: nn.Module = NamedDenoiser(config.denoiser, len(config.names))
        else:
            if sum(config.denoiser.tokens) != count:
                raise ValueError(f"a denoiser of other fields than those of {count} weights")
            self.space = Space(config.space, count)
            self.denoiser = Denoiser(config.denoiser)
        self.register_buffer("known", torch.zeros(known, self.space.size))

    @property
    def diffusion(self) -> Diffusion:
        return diffusion_of(self.config.space)

    def named(self, name: str, count: int) -> torch.Tensor:
        """(count,) what the denoiser is told for a name, "" for any. Raises BadInput."""
        if not name:
            return torch.zeros(count, dtype=torch.int64)
        if name not in self.config.names:
            known = ", ".join(self.config.names) or "none: leave the name out"
            raise BadInput(f"This model makes no {name!r}.", f"Choose of: {known}.")
        return torch.full((count,), self.config.names.index(name) + 1)

    @torch.no_grad()
    def sample(
        self,
        count: int,
        seed: int,
        steps: int | None = None,
        device: torch.device | str = "cpu",
        check_cancelled: Callable[[], None] = lambda: None,
        name: str = "",
    ) -> Iterator[Progress | torch.Tensor]:
        """Progress after each step, its fraction from 0 to 1, then the weights (count, W) float32
        on the CPU.

        Row k is of the seed `seed + k`, whichever others are made with it. steps: of sampling; the
        model's own if None or 0. Moves the model to `device`. Raises BadInput for a name or a
        number of steps that it has not, and what check_cancelled raises.
        """
        told, diffusion = self.named(name, count).to(device), self.diffusion
        wanted = steps or self.config.steps
        if count < 1 or not 1 <= wanted <= diffusion.steps:
            raise BadInput(
                f"{count} fields in {wanted} steps cannot be made.",
                f"Make at least one, in 1 to {diffusion.steps} steps.",
            )
        self.to(device)
        noise = sampling.streams(range(seed, seed + count), self.space.size, torch.device(device))
        spaced = diffusion.spaced(wanted)
        if self.config.space == "components":
            taken = sampling.ancestral(
                lambda x, times: self.denoiser(x, times, told), spaced, noise, diffusion.prediction
            )
        else:
            taken = sampling.ddim(self.denoiser, spaced, next(noise), diffusion.prediction)
        for step in taken:
            check_cancelled()
            yield Progress("Sampling", (step.number + 1) / step.count)
        yield self.space.decode(step.sample).float().cpu()

    @torch.no_grad()
    def nearest(self, vectors: torch.Tensor) -> list[tuple[str, float]]:
        """For each of (B, W) the name of the nearest that the model was trained on, and how far it
        is: 1 is as far as these are, in the middle, from the nearest other one. Empty where it is
        not told what it was trained on."""
        if len(self.known) < 2:
            return []
        known = self.known.float() * self.space.scale if self.space.kind != "none" else self.known
        own = torch.cdist(known, known).fill_diagonal_(torch.inf).amin(dim=1).median()
        found = self.space.encode(vectors.to(known.device))
        found = found * self.space.scale if self.space.kind != "none" else found
        distances, numbers = torch.cdist(found, known).min(dim=1)
        names = self.known_names or tuple(str(number) for number in range(len(known)))
        return [
            (names[int(number)], float(distance / own))
            for distance, number in zip(distances, numbers, strict=True)
        ]


# ------------------------------------------------------------------------------------------- files


def config_of(record: Mapping[str, Any], what: str) -> FieldModelConfig:
    """From the "config" of a model.json. Raises BadInput, which names `what`."""
    try:
        return FieldModelConfig.from_dict(record["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"{what} does not describe a model of fields ({type(error).__name__}: {error}).",
            _REMEDY,
        ) from None


def load(folder: Path) -> FieldModel:
    """The model in a folder as backend.weights keeps it, on the CPU in float32, for inference.

    Raises BadInput for files that are missing, damaged or do not fit their description.
    """
    installed = weights.read_model(folder)
    config = config_of(installed.config, folder.name)
    tensors = _read(installed.files)
    known = tensors.get("known", torch.zeros(0, 0))
    names = _known_names(installed.config, len(known), folder.name)
    model = FieldModel(config, len(known), names)
    expected = model.state_dict()
    odd = sorted(tensors.keys() ^ expected.keys())
    odd += [k for k in expected if k in tensors and tensors[k].shape != expected[k].shape]
    if odd:
        raise BadInput(f"{folder.name} is not whole ({', '.join(odd[:3])}).", _REMEDY)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval().requires_grad_(False)


def _known_names(record: Mapping[str, Any], count: int, what: str) -> tuple[str, ...]:
    """What each of `count` known fields is called; none where that is not told. Raises BadInput."""
    names = record.get("known_names", ())
    told = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    if told and len(names) in (0, count):
        return tuple(names)
    raise BadInput(
        f"{what} does not name each of the {count} fields that it was trained on.", _REMEDY
    )


def _read(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for path in files:
        tensor_files.read_header(path)  # raises BadInput for what is none
        found |= load_file(path)
    return found


def published(path: Path, heads: int = loading.HEADS) -> FieldModel:
    """The model in a checkpoint (.ckpt) as its authors published it. Raises BadInput."""
    denoiser = loading.denoiser_from_checkpoint(path, heads)
    config = published_config(denoiser.config)
    with torch.device("meta"):
        model = FieldModel(config)
    model.denoiser = denoiser
    model.known = torch.zeros(0, model.space.size)
    return model.eval().requires_grad_(False)


def published_config(denoiser: DenoiserConfig) -> FieldModelConfig:
    """Of the model that published weights of this denoiser make. Raises BadInput."""
    field = field_of_tokens(denoiser.tokens)
    moving = field.dimensions == 4
    return FieldModelConfig(
        field=field,
        denoiser=denoiser,
        space="none",
        level=0.0 if moving else PUBLISHED_LEVEL,
        frames=FRAMES if moving else 1,
        loop=False,  # of animals that walk, fall and turn, which end elsewhere than they began
        steps=PUBLISHED_STEPS,
    )


def field_of_tokens(tokens: Sequence[int]) -> FieldConfig:
    """The field whose tensors have so many numbers. Raises BadInput where there is none."""
    hidden = tuple(tokens[1:-2:2])
    for dimensions in (3, 4):
        if hidden and hidden[0] and tokens[0] % hidden[0] == 0:
            frequencies, rest = divmod(tokens[0] // hidden[0] - dimensions, 2 * dimensions)
            if not rest and frequencies >= 0:
                config = FieldConfig(dimensions, frequencies, hidden)
                if token_sizes(config) == tuple(tokens):
                    return config
    raise BadInput(
        f"A denoiser of tokens {tuple(tokens)} is of no field.",
        "Give a checkpoint of HyperDiffusion as its authors published it.",
    )
