"""An LDM3D from the files of the store: a folder for each part, as diffusers keeps them.

Only .json, .txt and .safetensors files are read, and only classes of the lists here are made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import BadInput
from ...weights import MAX_TEXT_BYTES, Installed, entries
from ..wala.loading import mismatches
from . import images
from .circular import go_around
from .config import Ldm3dConfig
from .model import Ldm3d

# Networks are made here from sizes alone; these packages shall not even try to tell of it.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

SCHEDULERS = (
    *("PNDMScheduler", "DDIMScheduler", "DDPMScheduler", "LMSDiscreteScheduler"),
    *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "UniPCMultistepScheduler"),
    *("DPMSolverMultistepScheduler", "HeunDiscreteScheduler"),
)
PATCHES = "PatchAutoencoder"
ROWS = "RowUNet"
"""The classes of our own networks."""
LAYOUTS = "layouts"
"""The part that a model of our own has besides."""
PARTS = ("unet", "vae", "text_encoder")
_OLDER = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names of attention in an autoencoder that older versions of diffusers wrote."""
_LEFT_OUT = ("embeddings.position_ids",)
_OUTER = "text_model."

Tensors = dict[str, torch.Tensor]


def config_of(installed: Installed) -> Ldm3dConfig:
    """Raises BadInput for a description that is none."""
    try:
        return Ldm3dConfig.from_dict(installed.config)
    except (KeyError, TypeError, ValueError) as error:
        raise unfit(installed, str(error)) from None


@dataclass(frozen=True)
class Sizes:
    """What tells how much memory a model works in. factor: pixels along a cell of the latents;
    unet_width, decoder_width: channels at the finest levels."""

    factor: int
    unet_width: int
    decoder_width: int


def sizes_of(installed: Installed) -> Sizes:
    """From the settings alone. Raises BadInput."""
    unet, vae = (_settings(installed, f"{part}/config.json") for part in ("unet", "vae"))
    try:
        width = int(unet["block_out_channels"][0])
        if vae.get("_class_name") == PATCHES:
            # Two of its layers over pixels are kept at a time.
            return Sizes(int(vae["patch_size"]), width, 2 * int(vae["fine"]))
        channels = [int(count) for count in vae["block_out_channels"]]
        return Sizes(2 ** (len(channels) - 1), width, max(channels[:2]))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise unfit(installed, f"its settings lack {error}") from None


def load(installed: Installed, device: torch.device, dtype: torch.dtype) -> Ldm3d:
    """The model on `device` for inference; the autoencoder in float32, the others as `dtype`.

    Raises BadInput for parts that are missing, do not fit their descriptions or each other, and for
    an autoencoder without depth.
    """
    config = config_of(installed)
    unet = network(installed, "unet", device, dtype)
    vae = network(installed, "vae", device, torch.float32)
    text_encoder = network(installed, "text_encoder", device, dtype)
    tokenizer = tokenizer_of(installed)
    layouts = None
    if (installed.folder / LAYOUTS / "config.json").is_file():
        layouts = network(installed, LAYOUTS, device, torch.float32)
    model = Ldm3d(config, unet, vae, text_encoder, tokenizer, schedule_of(installed), layouts)
    _check(installed, model)
    try:
        go_around(unet)
        go_around(vae)
    except ValueError as error:
        raise unfit(installed, str(error)) from None
    return model


def _check(installed: Installed, model: Ldm3d) -> None:
    """Raise BadInput unless the parts fit together and there is depth."""
    from .rows import RowUNet, channels_in

    vae, unet = model.vae.config, model.unet.config
    if vae.out_channels not in images.CHANNELS or vae.in_channels != vae.out_channels:
        raise BadInput(
            f"The autoencoder of {installed.id} takes {vae.in_channels} channels and gives "
            f"{vae.out_channels}: a picture with depth has 4 (one of depth) or 6 (16 bits of depth"
            " in three).",
            "Use a model of the LDM3D family; those of pictures alone have no depth.",
        )
    given = unet.in_channels
    if isinstance(model.unet, RowUNet):
        given = unet.out_channels if given == channels_in(unet.out_channels) else given
    problems = [
        f"{what}: {have} and {want}"
        for what, have, want in (
            ("channels of latents", given, vae.latent_channels),
            ("channels that come back", unet.out_channels, given),
            ("width of words", unet.cross_attention_dim, model.text_encoder.config.hidden_size),
        )
        if have != want
    ]
    if model.layouts is not None and model.layouts.config.latents[0] != vae.latent_channels:
        problems.append(
            f"channels of layouts: {model.layouts.config.latents[0]} and {vae.latent_channels}"
        )
    numbers = len(model.tokenizer)
    if numbers > model.text_encoder.config.vocab_size:
        problems.append(f"words: {numbers} and {model.text_encoder.config.vocab_size}")
    if model.config.width % model.factor or model.config.height % model.factor:
        problems.append(
            f"{model.config.width} x {model.config.height} pixels in cells of {model.factor}"
        )
    if problems:
        raise unfit(installed, "its parts do not fit together: " + "; ".join(problems))


# ------------------------------------------------------------------------------------- the networks


def network(installed: Installed, part: str, device: torch.device, dtype: torch.dtype) -> Any:
    """One of PARTS, or LAYOUTS, on `device` for inference. Raises BadInput."""
    settings = _settings(installed, f"{part}/config.json")
    try:
        with torch.device("meta"):
            made = _MAKERS[part](settings)
        own = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
        have = _named_as(own, dict(_stored(installed, part)))
    except (TypeError, ValueError, ArithmeticError, RuntimeError, KeyError) as error:
        raise unfit(installed, f"{part}: {type(error).__name__}: {error}") from None
    problems = mismatches(own, {name: tuple(tensor.shape) for name, tensor in have.items()})
    if problems:
        raise unfit(installed, f"{part}: {problems}")
    placed = {
        name: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
        for name, tensor in have.items()
    }
    made.load_state_dict(placed, strict=True, assign=True)
    return made.eval().requires_grad_(False)


def _unet(settings: Mapping[str, Any]) -> Any:
    if settings.get("_class_name") == ROWS:
        from .rows import RowUNet

        return RowUNet.from_config(settings)
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_config(settings)


def _vae(settings: Mapping[str, Any]) -> Any:
    if settings.get("_class_name") == PATCHES:
        from .patches import PatchAutoencoder

        return PatchAutoencoder.from_config(settings)
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_config(settings)


def _text_encoder(settings: Mapping[str, Any]) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    own = {key: value for key, value in settings.items() if key not in ("dtype", "torch_dtype")}
    return CLIPTextModel(CLIPTextConfig.from_dict(own))


def _layouts(settings: Mapping[str, Any]) -> Any:
    from .layouts import Layouts

    return Layouts.from_config(settings)


_MAKERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "unet": _unet,
    "vae": _vae,
    "text_encoder": _text_encoder,
    LAYOUTS: _layouts,
}


def _stored(installed: Installed, part: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a part by name, mapped. Raises BadInput where there are none."""
    from safetensors import SafetensorError, safe_open

    paths = [path for path in installed.files if path.parent == installed.folder / part]
    if not paths:
        raise unfit(installed, f"the part {part} has no weights")
    for path in paths:
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                for name in file.keys():  # noqa: SIM118 (it is no dictionary)
                    yield name, file.get_tensor(name)
        except SafetensorError as error:
            raise unfit(installed, f"{part}/{path.name}: {error}") from None


def _named_as(own: Mapping[str, tuple[int, ...]], tensors: Tensors) -> Tensors:
    """Tensors under the names of today, those that are no weights left out."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        now = name
        if now not in own:
            for old, new in _OLDER.items():
                now = now.replace(old, new)
        if now not in own:
            now = now.removeprefix(_OUTER) if now.startswith(_OUTER) else _OUTER + now
        if now not in own and name.removeprefix(_OUTER) in _LEFT_OUT:
            continue
        now = now if now in own else name
        if now in own and tensor.ndim == 4 and len(own[now]) == 2 and tensor.shape[2:] == (1, 1):
            tensor = tensor[..., 0, 0]  # attention was once made of convolutions
        found[now] = tensor
    return found


# ----------------------------------------------------------------------------- words and schedules


def tokenizer_of(installed: Installed) -> Any:
    """Of the part tokenizer. Raises BadInput."""
    from transformers import CLIPTokenizer

    folder = installed.folder / "tokenizer"
    whole = (folder / "tokenizer.json").is_file()
    if not whole and not ((folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()):
        raise unfit(installed, "the part tokenizer has no vocabulary")
    for path in folder.iterdir():
        _check_size(installed, path)
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever a library meets in a file that anybody may have made
        raise unfit(installed, f"tokenizer: {type(error).__name__}: {error}") from None


def schedule_of(installed: Installed) -> Callable[[], Any]:
    """What makes a new scheduler, by the settings of the model. Raises BadInput."""
    import diffusers

    settings = _settings(installed, "scheduler/scheduler_config.json")
    name = settings.get("_class_name")
    if name not in SCHEDULERS:
        raise unfit(installed, f"its scheduler {name!r} is not one of {', '.join(SCHEDULERS)}")
    kind = getattr(diffusers, name)

    def made() -> Any:
        return kind.from_config(settings)

    try:
        made()
    except (TypeError, ValueError, ArithmeticError, NotImplementedError) as error:
        raise unfit(installed, f"scheduler: {type(error).__name__}: {error}") from None
    return made


def _settings(installed: Installed, name: str) -> dict[str, Any]:
    """A .json file of the model. Raises BadInput."""
    path = installed.folder / name
    if not path.is_file():
        raise unfit(installed, f"{name} is missing")
    _check_size(installed, path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unfit(installed, f"{name}: {error}") from None
    if not isinstance(record, dict):
        raise unfit(installed, f"{name} holds no settings")
    return record


def _check_size(installed: Installed, path: Path) -> None:
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise unfit(installed, f"{path.name} is too large")


def unfit(installed: Installed, problems: str) -> BadInput:
    """The error to raise for files that cannot be a model."""
    again = "get it again"
    if installed.id in entries():
        again = f"download it again: python3 -m backend models download {installed.id}"
    return BadInput(
        f"The model {installed.id} cannot be used: {problems}.",
        f"Remove {installed.folder} and {again}; or choose another model.",
    )
