"""The denoiser from files, and a new one on a Stable Diffusion.

A model of the store has its weights in files of its own folder, or in its part unet/ as diffusers
and the published training keep them: diffusion_pytorch_model.safetensors has the U-Net and the
layers through space, pytorch_lora_weights.safetensors the corrections of attention, whose names
begin with "unet.". Names must be exactly those of the network, and every weight must be there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ...errors import BadInput, NotFound
from ...weights import MAX_TEXT_BYTES, Installed
from ..wala.loading import mismatches, unfit
from .config import DEFAULT_BASE, ViewDiffConfig
from .model import ViewDiff, is_new

UNET = "unet"
CORRECTIONS = "pytorch_lora_weights.safetensors"
"""What it has goes before what others have under the same name."""
_OUTER = "unet."

Tensors = dict[str, torch.Tensor]


def load(
    installed: Installed, config: ViewDiffConfig, device: torch.device, dtype: torch.dtype
) -> ViewDiff:
    """The denoiser with its weights on `device` as `dtype`, for inference; its layers through space
    are float32 always.

    Files are mapped, see the same function of WaLa. Raises BadInput for files that do not fit the
    configuration.
    """
    try:
        with torch.device("meta"):
            model = ViewDiff(config)
    except (TypeError, ValueError, ArithmeticError, RuntimeError, KeyError) as error:
        raise unfit(installed, f"{type(error).__name__}: {error}") from None
    folders = (installed.folder, installed.folder / UNET)
    paths = [path for path in installed.files if path.parent in folders]
    try:
        found = weights_of(paths)
    except ValueError as error:
        raise unfit(installed, str(error)) from None
    problems = mismatches(_shapes(model.unet.state_dict()), _shapes(found))
    if problems:
        raise unfit(installed, problems)
    place(model, found, device, dtype)
    return model.eval().requires_grad_(False)


def start(
    base: Path,
    config: ViewDiffConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> ViewDiff:
    """A denoiser on the U-Net of a Stable Diffusion, to be trained: new layers as at the beginning.

    base: a folder as diffusers keeps it, or its part unet. config.unet becomes that of the folder.
    Raises NotFound where there is none, BadInput for one that cannot be built on.
    """
    folder = base / UNET if (base / UNET).is_dir() else base
    config = dataclasses.replace(config, unet=read_settings(folder / "config.json"))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ViewDiff(config)
        found = weights_of([weights_path(folder)])
    except (TypeError, ValueError, ArithmeticError, RuntimeError, KeyError) as error:
        raise _no_base(base, f"{type(error).__name__}: {error}") from None
    own = model.unet.state_dict()
    plain = {name: tensor for name, tensor in own.items() if not is_new(name)}
    problems = mismatches(_shapes(plain), _shapes(found))
    if problems:
        raise _no_base(base, problems)
    # Copies: what is trained shall not be the mapped file.
    mine = {name: tensor.clone() for name, tensor in {**own, **found}.items()}
    place(model, mine, device, dtype)
    return model


def weights_of(paths: Iterable[Path]) -> Tensors:
    """Tensors of .safetensors files by their names in the U-Net, mapped.

    Raises ValueError for files that cannot be read, or weights that lie there twice.
    """
    from safetensors import SafetensorError

    found: Tensors = {}
    of_corrections: set[str] = set()
    for path in sorted(paths, key=lambda path: path.name == CORRECTIONS):
        last = path.name == CORRECTIONS
        try:
            for name, tensor in _stored(path):
                twice = name in found and (not last or name in of_corrections)
                if twice:
                    raise ValueError(f"{name} is there twice")
                if last:
                    of_corrections.add(name)
                found[name] = tensor
        except SafetensorError as error:
            raise ValueError(f"{path.name}: {error}") from None
    return found


def _stored(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        for name in file.keys():  # noqa: SIM118 (it is no dictionary)
            yield name.removeprefix(_OUTER), file.get_tensor(name)


def place(
    model: ViewDiff, weights: Mapping[str, torch.Tensor], device: Any, dtype: torch.dtype
) -> None:
    """Make `weights`, by their names in the U-Net, those of the model."""
    placed = {
        name: tensor.to(device=device, dtype=torch.float32 if in_space(name) else dtype)
        for name, tensor in weights.items()
    }
    model.unet.load_state_dict(placed, strict=True, assign=True)


def in_space(name: str) -> bool:
    """Whether a weight belongs to a layer through space, which is float32 always."""
    return ".unproj_reproj_layer." in name or name.startswith("first_guess.")


def weights_path(folder: Path) -> Path:
    """The file of a U-Net's weights. Raises NotFound."""
    path = folder / "diffusion_pytorch_model.safetensors"
    if not path.is_file():
        raise NotFound(
            f"There is no file {path}.",
            "Give the folder of a model as diffusers keeps it, with weights as .safetensors.",
        )
    return path


def read_settings(path: Path) -> dict[str, Any]:
    """A .json file of settings. Raises NotFound, BadInput."""
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise ValueError("it is too large")
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("it holds no settings")
    except FileNotFoundError:
        raise NotFound(
            f"There is no file {path}.", "Give the folder of a model as diffusers keeps it."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read ({error}).", "Save the model again.") from None
    return record


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _no_base(base: Path, problems: str) -> BadInput:
    return BadInput(
        f"The model in {base} cannot be built on: {problems}.",
        f"Use a Stable Diffusion 1 or 2 as diffusers keeps it, such as {DEFAULT_BASE}.",
    )
