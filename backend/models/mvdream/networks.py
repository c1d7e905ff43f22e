"""The networks: those of diffusers and transformers, set up as Stable Diffusion is.

Two things are MVDream's own. Self-attention is over all pictures of a shape at once
(`JointAttention`), and what is known of a camera is added to the embedding of the timestep, for
which diffusers' class embedding is the right network already.
"""

from __future__ import annotations

import os

import torch

# Networks are made here from sizes alone; these packages shall not even try to tell of it.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from transformers import CLIPTextConfig, CLIPTextModel

from .config import CAMERA_CHANNELS, AutoencoderConfig, TextConfig, UNetConfig


class JointAttention(AttnProcessor2_0):
    """Attention in which self-attention runs over the `frames` pictures of a shape together."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        frames: int = 1,
    ) -> torch.Tensor:
        """hidden_states: (B * frames, L, C). Text, where there is some, is each picture's own."""
        given = hidden_states
        if encoder_hidden_states is None:
            given = given.unflatten(0, (-1, frames)).flatten(1, 2)
        attended = super().__call__(attn, given, encoder_hidden_states, attention_mask, temb)
        return attended.reshape(hidden_states.shape)


def unet(config: UNetConfig) -> UNet2DConditionModel:
    """forward(latents (B, 4, h, w), timesteps (B,), text (B, L, C), class_labels: cameras (B, 16),
    cross_attention_kwargs {"frames": pictures per shape}) -> prediction, shaped as the latents."""
    down = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in config.attention]
    up = ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in config.attention[::-1]]
    network = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        block_out_channels=config.widths,
        layers_per_block=config.blocks,
        cross_attention_dim=config.context,
        # Their name for the number of heads.
        attention_head_dim=config.heads_of_levels,
        use_linear_projection=config.linear,
        class_embed_type="projection" if config.cameras else None,
        projection_class_embeddings_input_dim=CAMERA_CHANNELS if config.cameras else None,
    )
    network.set_attn_processor(JointAttention())
    return network


def text_encoder(config: TextConfig) -> CLIPTextModel:
    """forward(token numbers (B, L)).last_hidden_state: (B, L, C)."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            max_position_embeddings=config.length,
            hidden_act="quick_gelu" if config.tower == "clip" else "gelu",
            bos_token_id=config.vocabulary - 2,
            eos_token_id=config.vocabulary - 1,
        )
    )


def autoencoder(config: AutoencoderConfig) -> AutoencoderKL:
    """decode(latents (B, 4, h, w)).sample: pictures (B, 3, H, W) in [-1, 1]."""
    levels = len(config.widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.widths,
        layers_per_block=config.blocks,
        latent_channels=config.latent_channels,
        norm_num_groups=config.groups,
        scaling_factor=config.scale,
    )
