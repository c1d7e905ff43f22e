"""The networks of our own LDM3D, in two sizes: what two processor cores can train, and a card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...models.ldm3d.circular import go_around

AUTOENCODERS: dict[str, dict[str, Any]] = {
    "tiny": {"latent_channels": 4, "width": 8, "blocks": 1, "fine": 4},
    "cpu": {"patch_size": 16, "latent_channels": 32, "width": 128, "blocks": 3, "fine": 16},
    "gpu": {"patch_size": 8, "latent_channels": 16, "width": 256, "blocks": 6, "fine": 48},
}
"""Settings of PatchAutoencoder that differ."""

UNETS: dict[str, dict[str, Any]] = {
    "tiny": {"block_out_channels": [16, 32], "layers_per_block": 1, "cross_attention_dim": 16,
             "attention_head_dim": 2, "norm_num_groups": 8},
    "cpu": {"block_out_channels": [96, 160, 224], "layers_per_block": 1,
            "cross_attention_dim": 128, "attention_head_dim": 4, "norm_num_groups": 16},
    "gpu": {"block_out_channels": [96, 144, 208], "layers_per_block": 2,
            "cross_attention_dim": 192, "attention_head_dim": 4, "norm_num_groups": 16},
}  # fmt: skip
"""Likewise of RowUNet."""

TEXTS: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2},
    "cpu": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3,
            "num_attention_heads": 4},
    "gpu": {"hidden_size": 192, "intermediate_size": 576, "num_hidden_layers": 4,
            "num_attention_heads": 4},
}  # fmt: skip
"""Likewise of CLIPTextModel. All together, the larger size keeps below 60 MB in float16."""

SCHEDULE = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "trailing",
    "prediction_type": "v_prediction",
}
"""Of the noise: latents of rooms are smooth and show through much of it, so that it ends with
nothing but noise, unlike Stable Diffusion's; there v tells of the room, and noise does not."""


def autoencoder(settings: Mapping[str, Any]) -> Any:
    """A PatchAutoencoder of settings as in AUTOENCODERS, six channels."""
    from ...models.ldm3d.patches import PatchAutoencoder

    return PatchAutoencoder(**settings)


def unet(settings: Mapping[str, Any], latent_channels: int) -> Any:
    """A RowUNet that goes around, of settings as in UNETS."""
    from ...models.ldm3d.rows import RowUNet, channels_in, told

    levels = len(settings["block_out_channels"])
    down = ["DownBlock2D", *["CrossAttnDownBlock2D"] * (levels - 1)]
    up = [*["CrossAttnUpBlock2D"] * (levels - 1), "UpBlock2D"]
    made = RowUNet(
        sample_size=32,
        in_channels=channels_in(latent_channels),
        out_channels=latent_channels,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        class_embed_type="projection",
        projection_class_embeddings_input_dim=told(
            latent_channels, settings["cross_attention_dim"]
        ),
        **{**settings, "block_out_channels": tuple(settings["block_out_channels"])},
    )
    go_around(made)
    return made


def text_encoder(settings: Mapping[str, Any], tokenizer: Any) -> Any:
    """A CLIPTextModel for the words of `tokenizer`, of settings as in TEXTS."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **settings,
        )
    )
