"""Models that tell depth from a single picture, run by transformers.

Only `predicted_depth` is used; the 8-bit picture that transformers make of it is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...errors import BadInput
from .loading import load, unfit

RELATIVE = "relative inverse"
"""1 / z up to an unknown scale and shift; near is large."""

METRIC = "metric"
"""z in metres along the axis of the view."""


class DepthModel(Protocol):
    """Tells depth from one picture.

    side: pixels along a side of the pictures that it likes best; output: RELATIVE or METRIC.
    Called with (side, side, 3) uint8 sRGB of a view 90 degrees wide, it returns (h, w) float32.
    """

    side: int
    output: str

    def __call__(self, picture: np.ndarray) -> np.ndarray: ...


def _always(output: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda config: output


def _of_depth_anything(config: Mapping[str, Any]) -> str:
    return METRIC if config.get("depth_estimation_type") == "metric" else RELATIVE


OUTPUTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "depth_anything": _of_depth_anything,
    "dpt": _always(RELATIVE),
    "glpn": _always(METRIC),
    "zoedepth": _always(METRIC),
}
"""By "model_type" of config.json: what the numbers of a model mean. Others need an image processor
that only works with torchvision (depth_pro, chmv2, tipsv2_dpt) or a first depth (prompt_...)."""

_OPTIONS: dict[str, dict[str, Any]] = {
    # It would add a border to the picture, which then had to be taken off the depth.
    "zoedepth": {"do_pad": False},
}
"""Of image processors, by "model_type"."""

_LEAST_SIDE, _USUAL_SIDE, _MOST_SIDE = 28, 518, 1024


class TransformersDepth:
    """A depth model of the hub, in a folder. Nothing is fetched, nothing is unpickled."""

    def __init__(self, folder: Path, device: str = "cpu", output: str = "") -> None:
        """output: RELATIVE or METRIC where it is known otherwise than by the table.

        Raises BadInput when the folder holds no model that is known here, or is not whole.
        """
        config = read_config(folder)
        self.output = output or output_of(config)
        self._options = _OPTIONS.get(str(config["model_type"]), {})
        self._device = device
        self._processor, self._model = load(folder, device)
        self.side = _side_of(self._processor.size)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        import torch

        inputs = self._processor(images=picture, return_tensors="pt", **self._options)
        with torch.inference_mode():
            depth = self._model(**inputs.to(self._device)).predicted_depth
        return np.asarray(depth.float().cpu()).reshape(depth.shape[-2:])


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model. Raises BadInput."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unfit(folder, f"its config.json cannot be read, {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise unfit(folder, "its config.json does not say what kind of model it is")
    return config


def output_of(config: Mapping[str, Any]) -> str:
    """RELATIVE or METRIC. Raises BadInput for a kind of model that is not in the table."""
    kind = str(config["model_type"])
    if kind not in OUTPUTS:
        raise BadInput(
            f"What a depth model of the type {kind[:40]!r} tells is not known here.",
            f"Choose one of the types {', '.join(OUTPUTS)}.",
        )
    return OUTPUTS[kind](config)


def _side_of(size: Any) -> int:
    """Pixels along a side, of what an image processor scales pictures to."""
    for name in ("height", "shortest_edge", "width"):
        found = getattr(size, name, None) or (size.get(name) if isinstance(size, dict) else None)
        if found:
            return int(min(max(found, _LEAST_SIDE), _MOST_SIDE))
    return _USUAL_SIDE
