"""A run of the published training -> a model of the store.

Such a run is a folder as diffusers keeps it, with the corrections of attention in a file of their
own beside the U-Net, and the settings of the training in config.json. Shapes decide what the
network is. What they do not tell is read from the settings, where these have it by a name that is
known, or else taken as the published training has it; a model says which.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ... import weights
from ...errors import BadInput, NotFound
from ...tensor_files import read_header
from ...weights import Installed
from . import loading
from .config import (
    INTENSITY_VALUES,
    LENS_VALUES,
    POSE_VALUES,
    ProjectionConfig,
    ViewDiffConfig,
)
from .painter import PainterConfig

TASKS = ("image-to-views", "text-to-views")
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_KINDS = (".json", ".txt", ".safetensors")
_SCHEDULE = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type"),
    *("timestep_spacing", "steps_offset", "trained_betas"),
)
_PLACE = re.compile(r"(?:(down|up)_blocks\.(\d+)|mid_block)\.attentions\.")
_TOLD_BY_SETTINGS = {
    "dim_3d_grid": ("grid", int),
    "background_fraction": ("background_share", float),
    "disparity_at_inf": ("disparity_at_infinity", float),
}
"""Ends of names in config.json -> fields of ProjectionConfig that no shape tells."""

SAYABLE = ("reference", "own_frame", "image_size", "combine", "as_published")
"""Fields of ViewDiffConfig that are assumed, and that a person may know better."""
_LEARNED = {"zero": ".combination.linear.weight", "gated": ".combination.alpha"}
"""Ways to combine that have weights -> ends of their names."""

Shapes = Mapping[str, tuple[int, ...]]


def is_run(folder: Path) -> bool:
    """Whether a folder looks like one."""
    return (folder / loading.UNET / loading.CORRECTIONS).is_file()


def install(
    folder: Path,
    model_id: str,
    *,
    title: str = "",
    store: Path | None = None,
    report: Callable[[float], None] | None = None,
    **changes: Any,
) -> Installed:
    """Write the run in `folder` into the store as `model_id`.

    changes: of SAYABLE, fields of ViewDiffConfig that the files do not tell. Nothing of the files
    is run, and only tensors and texts are taken. Raises NotFound, BadInput, StorageFailed.
    """
    config, assumed = read(folder)
    config = _changed(config, assumed, changes)
    target = (store or weights.store()) / weights.check_id(model_id)
    assumed = [name for name in assumed if name not in changes]
    return weights.write_snapshot(
        target,
        dict(_parts(folder)),
        id=model_id,
        title=title or model_id,
        family="viewdiff",
        tasks=TASKS,
        config=PainterConfig(denoiser=config, intensity=(0.0, 0.0)).to_dict(),
        steps=10,
        guidance=7.5,
        source={"run": folder.name, "assumed": {name: _value(config, name) for name in assumed}},
        report=report,
    )


def _changed(
    config: ViewDiffConfig, assumed: list[str], changes: Mapping[str, Any]
) -> ViewDiffConfig:
    if "combine" in changes and changes["combine"] != config.combine:
        wanted = changes["combine"]
        if "combine" not in assumed or wanted in _LEARNED:
            raise BadInput(
                f"The weights of the run are of combine = {config.combine}, not {wanted}.",
                "Leave --combine out: the weights tell it.",
            )
    try:
        return dataclasses.replace(config, **changes)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"The run cannot be taken so: {error}.",
            "Give the settings that it was trained with, or leave them out.",
        ) from None


def _value(config: ViewDiffConfig, name: str) -> Any:
    value = getattr(config if hasattr(config, name) else config.projection, name)
    return dict(value) if isinstance(value, Mapping) else value


def read(folder: Path) -> tuple[ViewDiffConfig, list[str]]:
    """The configuration of a run, and which of its fields were assumed.

    Raises NotFound for a folder that lacks a file, BadInput for what is no such run.
    """
    unet = folder / loading.UNET
    corrections = unet / loading.CORRECTIONS
    if not corrections.is_file():
        raise NotFound(
            f"There is no file {corrections}.",
            "Give the folder that the training saved: a model as diffusers keeps it, with "
            f"unet/{loading.CORRECTIONS} and config.json.",
        )
    settings = loading.read_settings(unet / "config.json")
    training = loading.read_settings(folder / "config.json")
    shapes = {
        name.removeprefix("unet."): info.shape
        for path in (loading.weights_path(unet), corrections)
        for name, info in read_header(path).items()
    }
    try:
        config, assumed = config_of(shapes, settings, training)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise BadInput(
            f"The run in {folder} cannot be read: {type(error).__name__}: {error}.",
            "Give a folder that ViewDiff's training saved, unchanged.",
        ) from None
    schedule = folder / "scheduler" / "scheduler_config.json"
    if schedule.is_file():
        every = loading.read_settings(schedule)
        known = {name: every[name] for name in _SCHEDULE if every.get(name) is not None}
        config = dataclasses.replace(config, schedule=known)
    else:
        assumed.append("schedule")
    return config, assumed


def config_of(
    shapes: Shapes, settings: Mapping[str, Any], training: Mapping[str, Any]
) -> tuple[ViewDiffConfig, list[str]]:
    """As `read`. shapes: by name in the U-Net. settings: of the U-Net; training: of the run.

    Raises KeyError, ValueError or TypeError for what is no such network.
    """
    down = _first(shapes, "attn1.processor.to_q_lora.down.weight")
    up = down.replace(".down.", ".up.")
    time = next(_named(shapes, "attn1.processor.temb_proj.2.weight"), None)
    time_channels = shapes[time][0] if time else 0
    told = shapes[down][1] - shapes[up][0] - time_channels
    least = POSE_VALUES + LENS_VALUES
    if told not in (least, least + INTENSITY_VALUES):
        raise ValueError(f"{told} values are told of each view, not {least} or {least + 2}")
    places = _places(shapes)
    projection, assumed = _projection(shapes, training) if places else (ProjectionConfig(), [])
    combine = next((way for way, end in _LEARNED.items() if any(_named(shapes, end))), None)
    config = ViewDiffConfig(
        unet=_known(settings),
        base="",
        rank=shapes[down][0],
        intensity=told > least,
        time_channels=time_channels,
        text_corrections=any(_named(shapes, "attn2.processor.to_q_lora.down.weight")),
        projection_down=sum(kind == "down" for kind, _ in places),
        projection_mid=("mid", 0) in places,
        projection_up=sum(kind == "up" for kind, _ in places),
        projection=projection,
        combine=combine or "replace",
        up="-z",
        as_published=True,
    )
    if combine is None:
        assumed.append("combine")
    return config, [*assumed, "as_published", "image_size", "own_frame", "reference", "up"]


def _projection(shapes: Shapes, training: Mapping[str, Any]) -> tuple[ProjectionConfig, list[str]]:
    layer = _first(shapes, "unproj_reproj_layer.volume_renderer.bias_color")
    layer = layer.removesuffix("volume_renderer.bias_color")
    own = {name.removeprefix(layer) for name in shapes if name.startswith(layer)}
    if "blocks_3d.0.conv1.weight" in own:
        layers = 1
    else:
        layers = 5 if "blocks_3d.down_blocks.1.resnets.0.conv1.weight" in own else 3
    several = "proj_out_2d_fg.2.weight" in own
    found = ProjectionConfig(
        channels=shapes[layer + "volume_renderer.bias_color"][0],
        layers=layers,
        compress="multiple" if "proj_in_2d.2.weight" in own else "single",
        expand="multiple" if several else "single",
        background=not several or "proj_out_2d_bg.2.weight" in own,
        aggregator="ibrnet" if "ibrnet_aggregator.base_fc.0.weight" in own else "mean",
        time="ibrnet_aggregator.temb_encoder.0.weight" in own,
        view_dependent="linear_ray.weight" in own,
    )
    told, assumed = {}, ["samples"] if several else ["background", "samples"]
    values = dict(_flat(training))
    for end, (field, kind) in _TOLD_BY_SETTINGS.items():
        fitting = {values[name] for name in values if name.endswith(end)}
        if len(fitting) == 1:
            told[field] = kind(fitting.pop())
        else:
            assumed.append(field)
    return dataclasses.replace(found, **told), assumed


def _places(shapes: Shapes) -> set[tuple[str, int]]:
    """Which blocks of the U-Net have layers through space: ("down", 2), ("mid", 0), ..."""
    matches = (_PLACE.match(name) for name in shapes if ".unproj_reproj_layer." in name)
    return {(match[1] or "mid", int(match[2] or 0)) for match in matches if match}


def _named(shapes: Shapes, end: str) -> Iterator[str]:
    return (name for name in shapes if name.endswith(end))


def _first(shapes: Shapes, end: str) -> str:
    """Raises KeyError where there is none."""
    for name in _named(shapes, end):
        return name
    raise KeyError(end)


def _known(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those that diffusers' U-Net has."""
    from diffusers import UNet2DConditionModel

    names = inspect.signature(UNet2DConditionModel.__init__).parameters
    return {name: value for name, value in settings.items() if name in names}


def _flat(record: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Numbers by name, however deep they lie."""
    for name, value in record.items():
        if isinstance(value, Mapping) and depth < 8:
            yield from _flat(value, depth + 1)
        elif type(value) in (int, float):
            yield name, value


def _parts(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files of the model that is written, by name."""
    for part in _PARTS:
        for path in sorted((folder / part).glob("*")):
            # Half precision lies beside full: taken from that.
            if path.suffix in _KINDS and ".fp16." not in path.name and path.is_file():
                yield f"{part}/{path.name}", path
