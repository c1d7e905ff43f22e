"""Objects cut out of pictures with a plain ground.

The ground is a smooth colour (constant, or shaded as in a studio) fitted to the border. It is
followed inwards from there as long as colours agree with the fit, so nothing of an object goes that
differs from the ground, whatever its tone. Colours are compared in Oklab (Ottosson 2020), where
equal distances look equally large; 1 is a hundredth of the way from black to white.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

_WORKING_SIDE = 640
_LARGEST_SIDE = 4096
_TOUCHING = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Tolerances:
    """How plain a ground must be to be taken for one, and how far colours may stray from it.

    border: share of the border that must be ground. noise: largest standard deviation.
    least, most: bounds of the distance from the fit, which otherwise follows the noise.
    shadow: how much darker the ground may be where something throws a shadow.
    """

    border: float
    noise: float
    least: float
    most: float
    shadow: float


CAREFUL = (Tolerances(border=0.75, noise=4.5, least=3.0, most=9.0, shadow=0.0),)
STRONG = (
    Tolerances(border=0.6, noise=4.5, least=3.0, most=9.0, shadow=30.0),
    Tolerances(border=0.4, noise=8.0, least=7.0, most=16.0, shadow=30.0),
)
"""What is tried in turn until an object comes out."""


@dataclass(frozen=True, eq=False)
class Cutout:
    """An object on black.

    colors: (H, W, 3) uint8, already multiplied with the opacity, freed of the ground's colour.
    opacity: (H, W) uint8.
    """

    colors: np.ndarray
    opacity: np.ndarray


def by_alpha(image: np.ndarray) -> Cutout:
    """The cut-out that an (H, W, 4) uint8 picture with straight alpha is; reduced when it is large,
    band by band, for three copies of a hundred million pixels would fill a gigabyte."""
    factor = max(1, max(image.shape[:2]) // _LARGEST_SIDE)
    height = factor * max(1, 1024 // factor)
    bands = []
    for top in range(0, len(image), height):
        band = Image.fromarray(np.ascontiguousarray(image[top : top + height]))
        bands.append(np.asarray(band.convert("RGBa").reduce(factor)))
    multiplied = np.concatenate(bands)
    return Cutout(multiplied[..., :3], multiplied[..., 3])


def cut_out(image: np.ndarray, attempts: Sequence[Tolerances] = CAREFUL) -> Cutout | None:
    """The object of an (H, W, 3) uint8 picture; None when its ground is not plain.

    Large pictures come back smaller, but around the object as fine as models need it.
    """
    found = (_cut_out_closely(image, tolerances) for tolerances in attempts)
    return next((cutout for cutout in found if cutout is not None), None)


def opacity_of(image: np.ndarray, attempts: Sequence[Tolerances] = CAREFUL) -> np.ndarray | None:
    """(H, W) uint8, how much of each pixel of an (H, W, 3) uint8 picture shows its object, at the
    size of the picture; None when its ground is not plain."""
    small = _reduced(image)
    for tolerances in attempts:
        found = _cut_out(small, tolerances)
        if found is None:
            continue
        if len(small) == len(image):
            return found.opacity
        height, width = image.shape[:2]
        factor = -(-max(height, width) // _WORKING_SIDE)
        # `reduce` rounds up: the last block may reach beyond the picture.
        whole = Image.fromarray(found.opacity).resize(
            (small.shape[1] * factor, small.shape[0] * factor), Image.Resampling.BILINEAR
        )
        return np.asarray(whole)[:height, :width]
    return None


def _cut_out_closely(image: np.ndarray, tolerances: Tolerances) -> Cutout | None:
    small = _reduced(image)
    found = _cut_out(small, tolerances)
    if found is None or len(small) == len(image):
        return found
    rows, columns = (np.flatnonzero((found.opacity > 25).any(axis=axis)) for axis in (1, 0))
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    if extent > 0.5 * max(small.shape[:2]):
        return found
    # A small object in a large picture: once more, from its surroundings alone.
    factor = len(image) / len(small)
    reach = 0.4 * extent
    top, bottom = (int(max(0, rows[0] - reach) * factor), int((rows[-1] + reach) * factor))
    left, right = (int(max(0, columns[0] - reach) * factor), int((columns[-1] + reach) * factor))
    closer = _cut_out(_reduced(image[top:bottom, left:right]), tolerances)
    return closer or found


def _reduced(image: np.ndarray) -> np.ndarray:
    factor = -(-max(image.shape[:2]) // _WORKING_SIDE)
    if factor == 1:
        return image
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).reduce(factor))


def _cut_out(image: np.ndarray, tolerances: Tolerances) -> Cutout | None:
    colors = oklab(image)
    fitted = _fit_ground(colors, tolerances)
    if fitted is None:
        return None
    ground, spread = fitted
    sharp = None
    if np.trace(spread) > 0.5:
        # Grain would need wide tolerances.
        sharp = _distance(colors - ground, spread, tolerances)
        colors = ndimage.gaussian_filter(colors, (1, 1, 0))
        ground, spread = _fit_ground(colors, tolerances) or fitted
    offset = colors - ground
    distance = _distance(offset, spread, tolerances)
    plain = _from_border(distance < 1)
    reached = plain
    if tolerances.shadow:
        reached = _with_shadow(plain, offset, distance < 1, tolerances.shadow)
    reached |= _holes(distance, reached)
    if sharp is not None:
        reached |= _holes(sharp, reached)
        # The blur closed narrow gaps; their ends are ground as it was before.
        reached |= ndimage.binary_dilation(reached, iterations=4, mask=sharp < 0.6)
    solid = _without_specks(~reached, distance)
    if not _is_object(solid):
        return None
    return _with_soft_edge(image, solid, distance)


# ----------------------------------------------------------------------------------------- colours


def oklab(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 sRGB -> Oklab times 100, float32, less steep near black, where it would
    make differences of a few codes, as noise has, as large as those between greys."""
    toe = np.float32(0.003)
    cones = np.cbrt(_LINEAR[image] @ _TO_CONES + toe) - np.cbrt(toe)
    return (cones @ _TO_OPPONENTS) * np.float32(100 / (np.cbrt(1 + toe) - np.cbrt(toe)))


def _linear_table() -> np.ndarray:
    values = np.arange(256) / 255
    return np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)


_LINEAR = _linear_table().astype(np.float32)
_TO_CONES = np.array(
    [
        [0.4122214708, 0.2119034982, 0.0883024619],
        [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005],
    ],
    np.float32,
)
_TO_OPPONENTS = np.array(
    [
        [0.2104542553, 1.9779984951, 0.0259040371],
        [0.7936177850, -2.4285922050, 0.7827717662],
        [-0.0040720468, 0.4505937099, -0.8086757660],
    ],
    np.float32,
)


# ------------------------------------------------------------------------------------------ ground


def _fit_ground(colors: np.ndarray, tolerances: Tolerances) -> tuple[np.ndarray, np.ndarray] | None:
    """The ground (H, W, 3), a quadratic fitted to the border, and the covariance (3, 3) of what it
    leaves; None if not plain."""
    height, width = colors.shape[:2]
    ring = np.ones((height, width), bool)
    depth = max(1, min(height, width) // 50)
    ring[depth:-depth, depth:-depth] = False
    border = colors[ring]
    basis = _basis(height, width)
    rows = basis[ring]
    ground = np.broadcast_to(_commonest(border), border.shape)
    noise, near = 6.0, np.zeros(len(border), bool)
    for terms in (1, 1, 3, 3, 6, 6, 6):
        off = np.linalg.norm(border - ground, axis=1)
        near = off < max(2.0, 4 * noise)
        if near.mean() < 0.3:
            return None
        solved = np.linalg.lstsq(rows[near, :terms], border[near], rcond=None)[0]
        ground = rows[:, :terms] @ solved
        noise = 1.48 * float(np.median(np.linalg.norm(border[near] - ground[near], axis=1)))
        noise = min(noise, 8.1)
    if near.mean() < tolerances.border or noise > tolerances.noise:
        return None
    left = border[near] - ground[near]
    return (basis @ solved).astype(np.float32), left.T @ left / len(left)


def _distance(offset: np.ndarray, covariance: np.ndarray, tolerances: Tolerances) -> np.ndarray:
    """(H, W) from the ground, 1 being the tolerance: four standard deviations along each axis of
    the noise, as a lawn varies in lightness and hardly in hue."""
    variances, axes = np.linalg.eigh(covariance)
    reach = 4 * np.sqrt(np.maximum(variances, 0)) + 1
    scales = axes / np.clip(reach, tolerances.least, tolerances.most)
    return np.linalg.norm(offset @ scales.astype(np.float32), axis=2)


def _basis(height: int, width: int) -> np.ndarray:
    """(H, W, 6): 1, x, y, x^2, x y, y^2 over [-1, 1]."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=2)


def _commonest(colors: np.ndarray) -> np.ndarray:
    """The colour (3,) that most of (N, 3) are near."""
    cells = np.floor(colors / 5).astype(int)
    _, inverse, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    return np.median(colors[inverse.ravel() == counts.argmax()], axis=0)


def _with_shadow(
    plain: np.ndarray, offset: np.ndarray, alike: np.ndarray, deepest: float
) -> np.ndarray:
    """`plain` and the shadows that begin in it: only darker, and nowhere sharply."""
    offset = ndimage.gaussian_filter(offset, (1.5, 1.5, 0))
    slope = ndimage.gaussian_gradient_magnitude(offset[..., 0], 1)
    tinted = np.linalg.norm(offset[..., 1:], axis=2)
    darker = (tinted < 2) & (offset[..., 0] < 0) & (offset[..., 0] > -deepest)
    reached = _from_border(alike | (darker & (slope < 1.2)))
    # A shadow ends sharply where it meets the object: there, a few pixels more.
    shadow = reached & ~plain
    return reached | ndimage.binary_dilation(shadow, iterations=4, mask=darker | alike)


def _from_border(alike: np.ndarray) -> np.ndarray:
    """What of `alike` hangs together with the border of the picture."""
    labels, count = ndimage.label(alike)
    reached = np.zeros(count + 1, bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        reached[edge] = True
    reached[0] = False
    return reached[labels]


def _holes(distance: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """Ground seen through an object, as between the rungs of a chair.

    It is the ground exactly and ends sharply; a highlight or a white part fades, or is shaded.
    """
    labels, count = ndimage.label(ndimage.binary_opening(distance < 1) & ~reached)
    holes = np.zeros(count + 1, bool)
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        grown = tuple(slice(max(0, s.start - 4), s.stop + 4) for s in place)
        inside = labels[grown] == number
        inner = ndimage.binary_erosion(inside)
        if inner.sum() < 8:
            continue
        rim = ndimage.binary_dilation(inside, _TOUCHING, iterations=3) & ~inside
        exact = np.median(distance[grown][inner]) < 0.5
        holes[number] = exact and np.median(distance[grown][rim]) > 2.5
    return holes[labels]


def _without_specks(solid: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """The object but for dust, and for pieces that hardly differ from the ground: also those at its
    outline, as JPEG leaves them there."""
    weak = solid & ~ndimage.binary_dilation(distance > 2, _TOUCHING, iterations=2)
    labels, count = ndimage.label(weak, _TOUCHING)
    small = np.bincount(labels.ravel(), minlength=count + 1) < 30
    small[0] = False
    labels, count = ndimage.label(solid & ~small[labels], _TOUCHING)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    contrast = ndimage.maximum(distance, labels, np.arange(1, count + 1)) if count else np.zeros(0)
    kept = (sizes >= max(8, sizes.max(initial=0) / 300)) & (np.asarray(contrast) > 2)
    return np.concatenate([[False], kept])[labels]


def _is_object(solid: np.ndarray) -> bool:
    """Whether what is left may be an object: not next to nothing, nor scraps all over, nor all."""
    if not 0.0005 < solid.mean() < 0.97:
        return False
    rows, columns = (np.flatnonzero(solid.any(axis=axis)) for axis in (1, 0))
    box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    return bool(solid.sum() > 0.02 * box)


# -------------------------------------------------------------------------------------------- edges


def _with_soft_edge(image: np.ndarray, solid: np.ndarray, distance: np.ndarray) -> Cutout:
    """Opacity of the pixels along the outline: their colours are mixtures of the ground and of what
    lies inwards of them."""
    ground = _ground_colors(image, solid)
    pixels = image.astype(np.float32)
    grown = ndimage.binary_dilation(solid, _TOUCHING)
    core = ndimage.binary_erosion(solid, iterations=2)
    core |= solid & (distance >= 0.9 * ndimage.maximum_filter(distance, 5))
    band = grown & ~core
    nearest = ndimage.distance_transform_edt(~core, return_distances=False, return_indices=True)
    inward = pixels[nearest[0][band], nearest[1][band]] - ground[band]
    share = np.einsum("nc,nc->n", pixels[band] - ground[band], inward)
    share /= np.maximum(np.einsum("nc,nc->n", inward, inward), 1)
    opacity = solid.astype(np.float32)
    opacity[band] = np.clip(share, 0, 1)
    colors = np.clip(pixels - (1 - opacity[..., None]) * ground, 0, 255 * opacity[..., None])
    return Cutout(np.rint(colors).astype(np.uint8), np.rint(255 * opacity).astype(np.uint8))


def _ground_colors(image: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """The ground in sRGB, (H, W, 3) float32: a quadratic fitted to what was found to be ground."""
    basis = _basis(*solid.shape)
    free = ~ndimage.binary_dilation(solid, _TOUCHING, iterations=2)
    if free.sum() < 100:
        free = ~solid
    step = max(1, int(free.sum() // 20_000))
    rows, values = basis[free][::step], image[free][::step].astype(np.float64)
    solved = np.linalg.lstsq(rows, values, rcond=None)[0]
    return np.clip(basis @ solved, 0, 255).astype(np.float32)
