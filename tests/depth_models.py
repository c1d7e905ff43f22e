"""Small depth models with weights of chance: folders as transformers keeps them, in a store."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from backend import weights
from backend.protocol import PanoramaToDepth

KINDS = ("depth_anything", "depth_anything_metric", "dpt", "glpn", "zoedepth")
SIDE = 56
_LOUDER = 8.0


def write_parts(folder: Path, kind: str = "depth_anything", seed: int = 0) -> None:
    """config.json, model.safetensors and preprocessor_config.json of a model of `kind`."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model, processor = _BUILDERS[kind]()
        for name, weights_of in model.named_parameters():  # so that what is told varies
            if weights_of.ndim > 1:
                weights_of.data.mul_(_LOUDER)
            elif name.endswith("bias") and "norm" not in name:
                weights_of.data.fill_(0.1)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


def install(store: Path, name: str = "depth-small", kind: str = "depth_anything") -> Path:
    """A model of the store, its folder; `store` is made."""
    parts = store.parent / f"parts of {name}"
    write_parts(parts, kind)
    weights.write_snapshot(
        store / name,
        {path.name: path for path in sorted(parts.iterdir())},
        id=name,
        title=name.replace("-", " ").capitalize(),
        family="panorama-depth",
        tasks=(PanoramaToDepth.kind,),
        config={},
        steps=1,
    )
    return store / name


def _depth_anything(output: str = "relative") -> tuple[Any, Any]:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        image_size=SIDE,
        patch_size=14,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[4, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
        depth_estimation_type=output,
        max_depth=10 if output == "metric" else 1,
    )
    return DepthAnythingForDepthEstimation(config), _dpt_processor(ensure_multiple_of=14)


def _depth_anything_metric() -> tuple[Any, Any]:
    return _depth_anything("metric")


def _dpt() -> tuple[Any, Any]:
    from transformers import DPTConfig, DPTForDepthEstimation

    config = DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=SIDE,
        patch_size=14,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
    )
    return DPTForDepthEstimation(config), _dpt_processor()


def _glpn() -> tuple[Any, Any]:
    from transformers import GLPNConfig, GLPNForDepthEstimation
    from transformers.models.glpn.image_processing_pil_glpn import GLPNImageProcessorPil

    config = GLPNConfig(
        num_encoder_blocks=4,
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
    )
    return GLPNForDepthEstimation(config), GLPNImageProcessorPil()


def _zoedepth() -> tuple[Any, Any]:
    from transformers import BeitConfig, ZoeDepthConfig, ZoeDepthForDepthEstimation
    from transformers.models.zoedepth.image_processing_pil_zoedepth import (
        ZoeDepthImageProcessorPil,
    )

    backbone = BeitConfig(
        image_size=64,
        patch_size=16,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        use_relative_position_bias=True,
    )
    config = ZoeDepthConfig(
        backbone_config=backbone,
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=4,
        bin_embedding_dim=8,
        num_attractors=[8, 4, 2, 1],
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}],
        patch_transformer_hidden_size=8,
        patch_transformer_intermediate_size=16,
        patch_transformer_num_attention_heads=2,
    )
    processor = ZoeDepthImageProcessorPil(size={"height": 64, "width": 64}, ensure_multiple_of=32)
    return ZoeDepthForDepthEstimation(config), processor


def _dpt_processor(**changes: Any) -> Any:
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

    size = {"height": SIDE, "width": SIDE}
    return DPTImageProcessorPil(size=size, keep_aspect_ratio=True, **changes)


_BUILDERS = {
    "depth_anything": _depth_anything,
    "depth_anything_metric": _depth_anything_metric,
    "dpt": _dpt,
    "glpn": _glpn,
    "zoedepth": _zoedepth,
}
