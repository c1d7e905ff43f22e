"""Where every weight lies in a published state dict: that of latent diffusion, not of diffusers.

    unet           model.diffusion_model.*
    text_encoder   cond_stage_model.model.*    (OpenCLIP), cond_stage_model.transformer.text_model.*
                   (OpenAI's CLIP, under the names of transformers)
    autoencoder    first_stage_model.*

The tables map beginnings of names, ours to theirs. They hold for networks of any size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from .config import AutoencoderConfig, TextConfig, UNetConfig


@dataclass(frozen=True)
class Place:
    """One of our tensors in a published state dict.

    third: which of three it is that lie there as one. pixelwise: it is a 1 x 1 convolution there.
    """

    name: str
    third: int | None = None
    pixelwise: bool = False

    def read(self, published: torch.Tensor) -> torch.Tensor:
        """Our tensor, a view. Raises ValueError when none can be there."""
        if self.third is not None:
            if len(published) % 3:
                raise ValueError(f"{self.name}: {tuple(published.shape)} are not three in one")
            published = published.chunk(3)[self.third]
        if self.pixelwise:
            if published.shape[2:] != (1, 1):
                raise ValueError(f"{self.name}: {tuple(published.shape)} is no 1 x 1 convolution")
            published = published[:, :, 0, 0]
        return published


def published(
    own: Mapping[str, torch.Tensor], places: Mapping[str, Place]
) -> dict[str, torch.Tensor]:
    """The published form of our tensors; the inverse of reading every place."""
    found: dict[str, torch.Tensor] = {}
    thirds: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in own.items():
        place = places[name]
        if place.pixelwise:
            tensor = tensor[:, :, None, None]
        if place.third is None:
            found[place.name] = tensor
        else:
            thirds.setdefault(place.name, {})[place.third] = tensor
    joined = {name: torch.cat([parts[k] for k in range(3)]) for name, parts in thirds.items()}
    return found | joined


# ------------------------------------------------------------------------------------------- unet

_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def unet_places(config: UNetConfig, names: Iterable[str]) -> dict[str, Place]:
    """names: of our tensors. Ours are those of diffusers' UNet2DConditionModel."""
    table = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "class_embedding.linear_1": "camera_embed.0",
        "class_embedding.linear_2": "camera_embed.2",
        "conv_in": "input_blocks.0.0",
        "mid_block.attentions.0": "middle_block.1",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    residual = {"mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2"}
    levels = len(config.widths)
    for level in range(levels):
        _add_down(table, residual, config, level)
        _add_up(table, residual, config, level)
    for ours, theirs in residual.items():
        table |= {f"{ours}.{part}": f"{theirs}.{name}" for part, name in _RESIDUAL.items()}
    return {name: Place("model.diffusion_model." + _renamed(name, table)) for name in names}


def _add_down(
    table: dict[str, str], residual: dict[str, str], config: UNetConfig, level: int
) -> None:
    """Numbered through from 1: the blocks of a level, then what halves the resolution."""
    first = 1 + level * (config.blocks + 1)
    for block in range(config.blocks):
        residual[f"down_blocks.{level}.resnets.{block}"] = f"input_blocks.{first + block}.0"
        table[f"down_blocks.{level}.attentions.{block}"] = f"input_blocks.{first + block}.1"
    halving = f"input_blocks.{first + config.blocks}.0.op"
    table[f"down_blocks.{level}.downsamplers.0.conv"] = halving


def _add_up(
    table: dict[str, str], residual: dict[str, str], config: UNetConfig, level: int
) -> None:
    """Numbered through from 0, coarsest first; what doubles the resolution ends the last block."""
    first = level * (config.blocks + 1)
    for block in range(config.blocks + 1):
        residual[f"up_blocks.{level}.resnets.{block}"] = f"output_blocks.{first + block}.0"
        table[f"up_blocks.{level}.attentions.{block}"] = f"output_blocks.{first + block}.1"
    part = 2 if config.attention[::-1][level] else 1
    doubling = f"output_blocks.{first + config.blocks}.{part}.conv"
    table[f"up_blocks.{level}.upsamplers.0.conv"] = doubling


# ------------------------------------------------------------------------------------ autoencoder

_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def autoencoder_places(config: AutoencoderConfig, names: Iterable[str]) -> dict[str, Place]:
    """names: of our tensors. Ours are those of diffusers' AutoencoderKL."""
    table = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    residual: dict[str, str] = {}
    levels = len(config.widths)
    for side, own, theirs in (("encoder", "down", "down"), ("decoder", "up", "up")):
        for part in ("conv_in", "conv_out"):
            table[f"{side}.{part}"] = f"{side}.{part}"
        table[f"{side}.conv_norm_out"] = f"{side}.norm_out"
        for part, name in _ATTENTION.items():
            table[f"{side}.mid_block.attentions.0.{part}"] = f"{side}.mid.attn_1.{name}"
        for block in range(2):
            residual[f"{side}.mid_block.resnets.{block}"] = f"{side}.mid.block_{block + 1}"
        for level in range(levels):
            # Theirs are numbered by resolution, ours in the order in which they are passed.
            number = level if own == "down" else levels - 1 - level
            level_of_theirs = f"{side}.{theirs}.{number}"
            for block in range(config.blocks + 1):
                ours = f"{side}.{own}_blocks.{level}.resnets.{block}"
                residual[ours] = f"{level_of_theirs}.block.{block}"
            ours = f"{side}.{own}_blocks.{level}.{own}samplers.0.conv"
            table[ours] = f"{level_of_theirs}.{own}sample.conv"
    for ours, theirs in residual.items():
        for part in ("norm1", "conv1", "norm2", "conv2"):
            table[f"{ours}.{part}"] = f"{theirs}.{part}"
        table[f"{ours}.conv_shortcut"] = f"{theirs}.nin_shortcut"
    return {
        name: Place(
            "first_stage_model." + _renamed(name, table),
            pixelwise=".attentions." in name and name.endswith(".weight") and ".to_" in name,
        )
        for name in names
    }


# ------------------------------------------------------------------------------------------- text

_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_THIRDS = {"q_proj": 0, "k_proj": 1, "v_proj": 2}


def text_places(config: TextConfig, names: Iterable[str]) -> dict[str, Place]:
    """names: of our tensors. Ours are those of transformers' CLIPTextModel."""
    if config.tower == "clip":
        return {name: Place("cond_stage_model.transformer.text_model." + name) for name in names}
    table = {
        "embeddings.token_embedding": "token_embedding",
        "final_layer_norm": "ln_final",
    }
    for layer in range(config.depth):
        ours, theirs = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        table |= {f"{ours}.{part}": f"{theirs}.{name}" for part, name in _LAYER.items()}
    return {name: _text_place(name, table) for name in names}


def _text_place(name: str, table: Mapping[str, str]) -> Place:
    prefix = "cond_stage_model.model."
    if name == "embeddings.position_embedding.weight":
        return Place(prefix + "positional_embedding")
    module, _, kind = name.rpartition(".")
    parent, _, projection = module.rpartition(".")
    if projection in _THIRDS:
        layer = parent.split(".")[2]
        joined = f"transformer.resblocks.{layer}.attn.in_proj_{kind}"
        return Place(prefix + joined, third=_THIRDS[projection])
    return Place(prefix + _renamed(name, table))


def _renamed(name: str, table: Mapping[str, str]) -> str:
    """`name` with its beginning, whole parts, replaced by what the table has for it."""
    beginning = name
    while beginning not in table:
        beginning, dot, _ = beginning.rpartition(".")
        if not dot:
            raise KeyError(name)
    return table[beginning] + name[len(beginning) :]
