"""Line drawings -> what the models see: dark lines of one width on white."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from ..errors import BadInput
from .framing import Prepared, around, cut, to_model


def model_sketch(image: np.ndarray) -> np.ndarray:
    """(H, W, 3 or 4) uint8 drawing, of any tone on any plain ground -> (3, 224, 224) float32."""
    return to_model(prepare(image).picture)


def prepare(image: np.ndarray) -> Prepared:
    """The drawing as the model will see it. Raises BadInput when there are no lines in it."""
    tones = image[..., :3].mean(axis=2)
    if image.shape[2] == 4:
        tones = 255 + (tones - 255) * (image[..., 3] / 255)
    ground = np.median(tones)
    ink = np.abs(tones - ground)
    if ink.max() < 16:
        raise BadInput("The sketch is empty.", "Draw at least one line, darker than the ground.")
    ink = np.clip(ink / ink.max(), 0, 1)
    paper = np.rint(255 * (1 - ink)).astype(np.uint8)
    return Prepared(np.repeat(cut(paper, around(ink > 0.3), 255)[..., None], 3, axis=2))


def rasterise(strokes: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Strokes (P, 3): x, y down, width; lengths (S,) -> (896, 896, 3) uint8, black on white."""
    side = 896
    low, high = strokes[:, :2].min(axis=0), strokes[:, :2].max(axis=0)
    scale = 0.8 * side / max(float((high - low).max()), 1e-12)
    places = (strokes[:, :2] - (low + high) / 2) * scale + side / 2
    canvas = Image.new("L", (side, side), 255)
    draw = ImageDraw.Draw(canvas)
    begin = 0
    for length in lengths:
        line = [tuple(map(float, place)) for place in places[begin : begin + length]]
        draw.line(line if len(line) > 1 else line * 2, fill=0, width=10, joint="curve")
        begin += length
    return np.repeat(np.asarray(canvas)[..., None], 3, axis=2)
