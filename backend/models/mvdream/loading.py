"""An MVDream model from the files of the store."""

from __future__ import annotations

import torch

from ...weights import Installed
from ..wala.loading import check_fit, mapped, unfit
from .config import MVDreamConfig
from .model import MVDream


def load(installed: Installed, device: torch.device, dtype: torch.dtype) -> MVDream:
    """The model with its weights on `device` as `dtype`, for inference.

    Files are mapped; see the same function of WaLa. Raises BadInput for files that do not fit the
    configuration.
    """
    model = _on_meta(installed)
    check_fit(installed, model)
    weights = {name: tensor.to(device=device, dtype=dtype) for name, tensor in mapped(installed)}
    model.take_published(weights)
    return model.eval().requires_grad_(False)


def config_of(installed: Installed) -> MVDreamConfig:
    """Raises BadInput for a description that is none."""
    try:
        return MVDreamConfig.from_dict(installed.config)
    except (KeyError, TypeError, ValueError) as error:
        raise unfit(installed, f"{type(error).__name__}: {error}") from None


def _on_meta(installed: Installed) -> MVDream:
    config = config_of(installed)
    try:
        with torch.device("meta"):
            return MVDream(config)
    except (TypeError, ValueError) as error:
        raise unfit(installed, f"{type(error).__name__}: {error}") from None
