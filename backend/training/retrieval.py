"""What a generator of shapes from pictures has to beat: the training shape that looks most alike.

Alike is what the model's own encoder of pictures says: the mean of a picture's tokens, less the
mean over all training pictures, compared by cosine. Every random camera of every training shape is
a candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..errors import BadInput
from ..models.wala.model import Wala
from . import conditions, generated, prepare, trees
from .cases import PICTURES, file_of
from .diffusion import as_pictures
from .metrics import Surface
from .packed import Shape


class Gallery:
    """Pictures of training shapes as their embeddings.

    embeddings: by kind of input, (T, C, D) float32 of T shapes and C cameras, not yet centred.
    """

    def __init__(
        self, folder: Path, model: Wala, names: Sequence[str], embeddings: dict[str, np.ndarray]
    ) -> None:
        self._folder = folder
        self._model = model
        self.names = tuple(names)
        self._means = {kind: rows.mean(axis=(0, 1)) for kind, rows in embeddings.items()}
        self._rows = {
            kind: _unit(rows - self._means[kind]).reshape(-1, rows.shape[-1])
            for kind, rows in embeddings.items()
        }

    @classmethod
    def of(cls, folder: Path, model: Wala, kept: Path, mark: str) -> Gallery:
        """Of FOLDER's training shapes by the encoder of a model of joint conditions.

        kept: a file that keeps the embeddings; mark: tells the model from all others.
        """
        names = [shape.id for shape in training_shapes(folder)]
        if not names:
            raise BadInput(f"{folder} has no training shapes.", "Prepare them first.")
        if kept.exists():
            with np.load(kept, allow_pickle=False) as arrays:
                if str(arrays["mark"]) == mark and arrays["names"].tolist() == names:
                    return cls(folder, model, names, {kind: arrays[kind] for kind in PICTURES})
        found: dict[str, list[np.ndarray]] = {kind: [] for kind in PICTURES}
        for name in names:
            with np.load(file_of(folder, "conditions", name), allow_pickle=False) as arrays:
                for kind, field in PICTURES.items():
                    found[kind].append(embedding(model, kind, arrays[field]))
        embeddings = {kind: np.stack(rows) for kind, rows in found.items()}
        partial = kept.with_name(kept.stem + ".part.npz")
        np.savez(partial, mark=np.array(mark), names=np.array(names), **embeddings)  # type: ignore[arg-type]
        partial.replace(kept)
        return cls(folder, model, names, embeddings)

    def nearest(self, kind: str, picture: np.ndarray) -> str:
        """The shape of the picture that is most like `picture`, as Conditions holds it."""
        row = _unit(embedding(self._model, kind, picture[None])[0] - self._means[kind])
        cameras = len(self._rows[kind]) // len(self.names)
        return self.names[int((self._rows[kind] @ row).argmax()) // cameras]

    def surface(self, name: str) -> Surface:
        """Of a shape's wavelet tree, in the cube."""
        return surface_of_tree(file_of(self._folder, "trees", name))


def training_shapes(folder: Path) -> list[Shape]:
    """Those that have trees and conditions in `folder`, generated ones among them."""
    everything = prepare.recipes(folder / "shapes.ffs", generated.COUNT)
    return [
        shape
        for shape, _ in everything
        if shape.split == "train"
        and file_of(folder, "trees", shape.id).exists()
        and file_of(folder, "conditions", shape.id).exists()
    ]


def surface_of_tree(path: Path) -> Surface:
    """The surface that a wavelet tree in a file stands for, in the cube."""
    packed = trees.SparseTree.load(path).packed()
    return conditions.surface_of_field(trees.field_of(packed[None])[0].numpy())


@torch.inference_mode()
def embedding(model: Wala, kind: str, stored: np.ndarray) -> np.ndarray:
    """Pictures (C, S, S, 3) or (C, S, S) uint8, as Conditions holds them -> (C, D) float32."""
    weight = next(model.parameters())
    pictures = as_pictures(torch.from_numpy(np.ascontiguousarray(stored)))
    tokens = model.encode({kind: pictures.to(weight.device, weight.dtype)})
    return tokens.float().mean(dim=1).cpu().numpy()


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
