"""Line drawings -> what the models see: dark lines of about one width on white.

A drawing may be a scan, a photograph of paper, chalk on a board, or strokes of a pen. What is
sparse is taken for ink and what varies slowly for the light on the paper.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from PIL import Image
from scipy import ndimage

from ..errors import BadInput
from .framing import SIDE, Frame, Prepared, around, cut, to_model

LINE_WIDTH = 2.0
"""Width of the lines, in pixels of the model's picture, that thinner and thicker ones are brought
to. The published example has dark lines on white; their width is not told, and drawings made by
edge detectors at this size are one to three pixels wide."""

_USUAL_WIDTHS = (1.2, 3.5)
_FINE = 3
_WORKING_SIDE = 1200
_FAINTEST = 0.06

NOT_LINES = (
    "The picture has more than lines: much of it is dark. Results are better with a line drawing; "
    "for a photograph choose Image."
)
LINES_REDRAWN = "The lines were brought to the width that the model knows."


def model_sketch(image: np.ndarray) -> np.ndarray:
    """(H, W, 3 or 4) uint8 drawing, of any tone on any plain ground -> (3, 224, 224) float32.

    Raises BadInput when there is no line in it.
    """
    return to_model(prepare(image).picture)


def prepare(image: np.ndarray) -> Prepared:
    """The drawing as the model will see it, and notes. Raises BadInput when it is empty."""
    ink = _ink(image)
    if ink is None or not (ink > 0.5).any():
        raise BadInput(
            "The sketch is empty.", "Draw at least one line that stands out from the ground."
        )
    notes = (NOT_LINES,) if (ink > 0.5).mean() > 0.35 else ()
    frame = around(ink > 0.5)
    lines = _framed(ink, frame)
    width = _line_width(lines) / _FINE
    if not _USUAL_WIDTHS[0] <= width <= _USUAL_WIDTHS[1] and not notes:
        lines, notes = _redrawn(lines), (LINES_REDRAWN,)
        # What was thick reached further than its axis does.
        lines = _framed(lines, around(lines > 0.5))
    return Prepared(_on_white(lines), notes)


def _framed(ink: np.ndarray, frame: Frame) -> np.ndarray:
    """The frame of an (H, W) ink, (672, 672); fine lines stay as dark as others."""
    lines = cut(np.rint(255 * ink).astype(np.uint8), frame, side=_FINE * SIDE) / np.float32(255)
    marked = lines[lines > 0.1]
    typical = float(np.percentile(marked, 60)) if len(marked) else 1.0
    return np.clip(lines / np.clip(typical, 0.2, 1), 0, 1)


def rasterise(strokes: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Strokes as `protocol.SketchToMesh` has them -> (672, 672, 3) uint8, black on white.

    strokes: (P, 3) x, y (down), width; lengths: (S,). Framed with a margin, antialiased, with round
    ends; a stroke of one point is a dot. Widths are kept within what is legible at this size.
    """
    side = _FINE * SIDE
    places = strokes[:, :2].astype(np.float64)
    low, high = places.min(axis=0), places.max(axis=0)
    extent = float((high - low).max())
    scale = 0.8 * side / extent if extent > 0 else 1.0
    places = (places - (low + high) / 2) * scale + side / 2
    radii = np.clip(strokes[:, 2] * (scale / 2), 0.3 * _FINE, 3 * _FINE)
    cover = np.zeros((side, side), np.float32)
    _draw(places, radii.astype(np.float64), np.cumsum(lengths, dtype=np.int64), cover)
    return np.repeat(np.rint(255 * (1 - cover)).astype(np.uint8)[..., None], 3, axis=2)


@njit(cache=True, nogil=True)
def _draw(places, radii, ends, cover):
    """The largest share of each pixel that a segment, thick and with round ends, covers."""
    side = cover.shape[0]
    begin = 0
    for end in ends:
        for k in range(begin, end):
            after = min(k + 1, end - 1)
            ax, ay, bx, by = places[k, 0], places[k, 1], places[after, 0], places[after, 1]
            reach = max(radii[k], radii[after]) + 1
            dx, dy = bx - ax, by - ay
            square = max(dx * dx + dy * dy, 1e-12)
            for row in range(
                max(0, int(min(ay, by) - reach)), min(side, int(max(ay, by) + reach) + 1)
            ):
                y = row + 0.5 - ay
                for column in range(
                    max(0, int(min(ax, bx) - reach)), min(side, int(max(ax, bx) + reach) + 1)
                ):
                    x = column + 0.5 - ax
                    t = min(max((x * dx + y * dy) / square, 0.0), 1.0)
                    distance = np.sqrt((x - t * dx) ** 2 + (y - t * dy) ** 2)
                    share = radii[k] + t * (radii[after] - radii[k]) + 0.5 - distance
                    if share > cover[row, column]:
                        cover[row, column] = min(share, 1.0)
        begin = end


# ---------------------------------------------------------------------------------------------- ink


def _ink(image: np.ndarray) -> np.ndarray | None:
    """(H, W) float32, 1 where there is a line and 0 on the ground; None where all is even."""
    small = _reduced(image)
    if small.shape[2] == 4:
        opacity = small[..., 3] / np.float32(255)
        drawn = _tones(small)[small[..., 3] > 128]
        if (
            (opacity < 0.1).mean() > 0.3
            and len(drawn)
            and np.ptp(np.percentile(drawn, [5, 95])) < 80
        ):
            return opacity  # lines of one tone on nothing
        white = 255 * (1 - opacity[..., None])
        small = np.rint(small[..., :3] * opacity[..., None] + white).astype(np.uint8)
    tones = _tones(small)
    usual = ndimage.median_filter(_coarse(tones), 15, mode="nearest")
    offset = tones - _fine(usual, tones.shape)
    if (offset**3).mean() > 0:
        tones = 255 - tones  # light lines on a dark ground
    paper = _paper(tones)
    darkness = (paper - tones) / np.maximum(paper, 40)
    strongest = float(np.percentile(darkness, 99.9))
    if max(strongest, float(darkness.max()) / 2) < _FAINTEST:
        return None
    return _contrasted(darkness)


def _contrasted(darkness: np.ndarray) -> np.ndarray:
    """Darkness (H, W) -> 0 on the paper with its grain, 1 on a typical line."""
    grain = 1.48 * float(np.median(np.abs(darkness - np.median(darkness))))
    floor = max(_FAINTEST / 2, min(5 * grain, 0.4 * float(darkness.max())))
    marked = darkness[darkness > floor]
    if not len(marked):
        return np.zeros_like(darkness)
    line = max(float(np.percentile(marked, 75)), 2 * floor)
    ink = np.clip((darkness - floor) / (0.8 * line - floor), 0, 1)
    labels, count = ndimage.label(ink > 0.3, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    specks = sizes < max(4, 0.004 * max(ink.shape))
    specks[0] = False
    return np.where(specks[labels], 0, ink).astype(np.float32)


def _paper(tones: np.ndarray) -> np.ndarray:
    """The tone (H, W) that the ground has, lines closed over: the light that falls on the paper."""
    margin = 13
    # Continued as it falls off, or the border of a vignette would look like ink.
    coarse = np.pad(_coarse(tones), margin, mode="reflect", reflect_type="odd")
    closed = ndimage.grey_closing(coarse, (margin, margin), mode="nearest")
    paper = ndimage.gaussian_filter(closed, 2, mode="nearest")[margin:-margin, margin:-margin]
    return _fine(paper, tones.shape)


def _coarse(tones: np.ndarray, side: int = 128) -> np.ndarray:
    factor = max(1, max(tones.shape) // side)
    return np.asarray(Image.fromarray(tones).reduce(factor))


def _fine(coarse: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(coarse, np.float32))
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _reduced(image: np.ndarray) -> np.ndarray:
    factor = -(-max(image.shape[:2]) // _WORKING_SIDE)
    if factor == 1:
        return image
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).reduce(factor))


def _tones(image: np.ndarray) -> np.ndarray:
    return image[..., :3].astype(np.float32) @ np.array([0.3, 0.59, 0.11], np.float32)


# -------------------------------------------------------------------------------------------- lines


def _line_width(lines: np.ndarray) -> float:
    """The median width of the lines of an (H, W) ink, in pixels."""
    from skimage.morphology import skeletonize

    mask = np.pad(lines[_span(lines > 0.4)] > 0.4, 1)
    widths = 2 * ndimage.distance_transform_edt(mask)[skeletonize(mask)] - 1
    return float(np.median(widths)) if len(widths) else 0.0


def _span(mask: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of (H, W) `mask` between the first and the last in which some is set."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return slice(0), slice(0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _redrawn(lines: np.ndarray) -> np.ndarray:
    """The same drawing with lines of LINE_WIDTH; filled areas become their outlines."""
    from skimage.morphology import skeletonize

    mask = lines > 0.4
    usual = max(_line_width(lines), 1.0)
    if usual > 3:
        # Ragged edges would grow spurs.
        mask = ndimage.gaussian_filter(mask.astype(np.float32), 0.15 * usual) > 0.5
    depth = ndimage.distance_transform_edt(mask)
    filled = (
        ndimage.binary_dilation(depth > 1.6 * usual, iterations=int(np.ceil(1.6 * usual))) & mask
    )
    outlines = filled & ~ndimage.binary_erosion(filled)
    axes = skeletonize(mask & ~filled) | outlines
    distance = ndimage.distance_transform_edt(~axes)
    return np.clip(LINE_WIDTH * _FINE / 2 + 0.5 - distance, 0, 1).astype(np.float32)


def _on_white(lines: np.ndarray) -> np.ndarray:
    """(672, 672) ink -> (224, 224, 3) uint8; the darkest lines black, however fine."""
    image = Image.fromarray(np.ascontiguousarray(lines, np.float32)).reduce(_FINE)
    ink = np.asarray(image)
    strong = ink[ink > 0.2]
    ink = ink / max(float(np.percentile(strong, 90)) if len(strong) else 1.0, 0.2)
    return np.repeat(np.rint(255 * (1 - np.clip(ink, 0, 1))).astype(np.uint8)[..., None], 3, axis=2)
