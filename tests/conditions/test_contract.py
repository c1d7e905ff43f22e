"""What every condition hands to its encoder: shape, dtype and range."""

from __future__ import annotations

import numpy as np

from backend.conditions import cameras, depths, images, points, sketches, voxels


def is_picture(array: np.ndarray) -> bool:
    return (
        array.shape == (3, 224, 224)
        and array.dtype == np.float32
        and bool((np.abs(array) <= 1).all())
        and array.flags.c_contiguous
    )


def disc(height: int = 60, width: int = 90) -> np.ndarray:
    y, x = np.ogrid[:height, :width]
    return (y - height / 2) ** 2 + (x - width / 2) ** 2 < (0.3 * height) ** 2


def test_pictures_are_what_the_image_encoder_takes() -> None:
    image = np.where(disc()[..., None], np.uint8([200, 90, 30]), np.uint8(120))
    depth = np.where(disc(), np.float32(2), np.float32(np.inf))
    strokes = np.float32([[0, 0, 1], [5, 2, 1], [3, 9, 2], [4, 4, 1]])
    for as_published in (False, True):
        assert is_picture(images.model_image(image, as_published=as_published))
        assert is_picture(depths.model_depth(depth, "metres", as_published=as_published))
    assert is_picture(sketches.model_sketch(np.where(disc()[..., None], 0, image)))
    drawn = sketches.rasterise(strokes, np.int32([3, 1]))
    assert drawn.dtype == np.uint8
    assert is_picture(sketches.model_sketch(drawn))
    assert images.model_views(np.stack([image] * 3)).shape == (3, 3, 224, 224)
    assert depths.model_views(np.stack([depth] * 2), "metres").shape == (2, 3, 224, 224)


def test_clouds_grids_and_cameras_are_what_their_encoders_take() -> None:
    cloud, to_source = points.model_points(np.random.default_rng(0).normal(size=(80, 3)), "z", 0)
    assert cloud.shape == (25_000, 3)
    assert cloud.dtype == np.float32
    assert to_source.shape == (4, 4)
    grid = np.zeros((10, 12, 8), bool)
    grid[2:6, 3:9, 1:4] = True
    cells, to_source = voxels.model_voxels(grid, np.zeros(3), np.ones(3), "z")
    assert cells.shape == (16, 16, 16)
    assert cells.dtype == np.float32
    assert set(np.unique(cells)) == {0, 1}
    assert to_source.shape == (4, 4)
    assert cameras.view_cameras([3, 6]).shape == (2, 4, 4)
