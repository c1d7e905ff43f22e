"""Words -> the numbers that the text encoder reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Words:
    """numbers: (1, L) int64, start and end included, padded; cut: what was not read."""

    numbers: torch.Tensor
    cut: str


def read(tokenizer: Any, text: str, length: int) -> Words:
    """`text` as `length` numbers; what does not fit is cut off before the end and told."""
    found = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    offsets = found["offset_mapping"]
    most = length - 2
    cut = text[offsets[most][0] :].strip() if len(offsets) > most else ""
    numbers = tokenizer(
        text, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    return Words(numbers["input_ids"], cut)
