"""A depth model from the files of the store, read by transformers without a network."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import BadInput


def load(folder: Path, device: str) -> tuple[Any, Any]:
    """The image processor and the model of `folder`, on "cpu" or "cuda", for inference.

    Only .safetensors files are read, and no code of the folder is run. Raises BadInput when files
    are missing or do not belong together.
    """
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    if not any(folder.glob("*.safetensors")):
        raise unfit(folder, "it has no .safetensors file")
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        with _quiet():
            processor = AutoImageProcessor.from_pretrained(str(folder), **options)
            model, found = AutoModelForDepthEstimation.from_pretrained(
                str(folder),
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told below, in words
                **options,
            )
    except MemoryError:
        raise
    except Exception as error:  # transformers raises whatever a broken file leads it to
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise unfit(folder, reason) from None
    wrong = {*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])}
    if wrong:
        raise unfit(folder, f"its weights lack {len(wrong)} parts, such as {min(wrong)}")
    return processor, model.to(device).eval().requires_grad_(False)


def unfit(folder: Path, reason: str) -> BadInput:
    return BadInput(
        f"The depth model in {folder} cannot be used: {reason}.",
        "Remove that folder and get the model again: Preferences > Models, or python3 -m backend"
        " models download ID",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without bars of progress and advice on the terminal, which belong to our own."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
