"""One mesh that moves through the surfaces of all frames, in place of a mesh for each.

Every frame of a field, or of a mesh sequence, has vertices and faces of its own. Here the mesh of
one frame is led from frame to frame: its vertices go to the nearest places of the next surface that
face the same way, and places of that surface that nothing went to draw the nearest vertices to
them, while the displacement of neighbours is kept alike, first much, then less and less. Each frame
is then checked, both ways: where the two surfaces differ by more than was allowed, as they must
where parts join, part or appear, the frame is told and no such mesh is made.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import igl
import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, diags

from ..work_steps import part
from .decimation import decimate

MAX_FACES = 14_000
"""Of the mesh that is led; a finer one is decimated first, so that it plays smoothly."""

_STIFFNESS = (300.0, 60.0, 12.0, 2.0)
_ITERATIONS = 2
_FACES_ALIKE = 0.3  # cosine between normals
_DRAWN = 4_000  # places of the next surface that draw vertices
_SOLVES = 30
_ALLOWED_SHARE = 0.008  # of the area that may be farther off than the tolerance
_ALLOWED_MOST = 5.0  # tolerances
_ALLOWED_TURNED = 0.03  # of the area that may face the other way
_ALLOWED_AREA = 1.25  # how much larger or smaller the area may be: folds lie on the surface, too

Mesh = tuple[np.ndarray, np.ndarray]
"""Vertices (V, 3) and faces (T, 3), counter-clockwise from outside."""


@dataclass(frozen=True, eq=False)
class Check:
    """How far the led mesh is from the surface of a frame, both ways, in the unit of the meshes.

    share: of the area that is farther off than the tolerance; most: the greatest distance; turned:
    share of the area that faces the other way than the surface there; area: times that of the
    surface.
    """

    mean: float
    share: float
    most: float
    turned: float
    area: float
    passed: bool


@dataclass(frozen=True, eq=False)
class Tracked:
    """vertices: (F, V, 3) float32, faces (T, 3) int32; None where a frame failed. checks: of the
    frames that were reached, in the order in which they were. failed: number of the frame that did
    not pass, None if all did."""

    vertices: np.ndarray | None
    faces: np.ndarray
    checks: list[Check]
    failed: int | None


def track(
    frames: Sequence[Mesh],
    tolerance: float,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Generator[tuple[str, float], None, Tracked]:
    """Lead the mesh of a frame through all; tolerance: the distance that is allowed.

    The first frame is tried, and where it does not pass, that with the largest surface, from where
    the mesh is led both ways. Frames with nothing in them cannot be reached. Yields
    ("Tracking the surface", fraction). The same meshes give the same result.
    """
    starts = _starts(frames)
    found = Tracked(None, np.zeros((0, 3), np.int32), [], 0)
    for number, start in enumerate(starts):
        steps = _from(frames, start, tolerance, check_cancelled)
        found = yield from part(steps, number / len(starts), (number + 1) / len(starts))
        if found.failed is None:
            return found
    return found


def _starts(frames: Sequence[Mesh]) -> list[int]:
    if not all(len(faces) for _, faces in frames):
        return []
    areas = [float(igl.doublearea(*_wide(frame)).sum()) for frame in frames]
    return list(dict.fromkeys((0, int(np.argmax(areas)))))


def _from(
    frames: Sequence[Mesh],
    start: int,
    tolerance: float,
    check_cancelled: Callable[[], None],
) -> Generator[tuple[str, float], None, Tracked]:
    mesh = decimate(*frames[start], MAX_FACES)
    led = _Led(*_wide(mesh))
    places: dict[int, np.ndarray] = {}
    checks: list[Check] = []
    order = [start, *range(start + 1, len(frames)), *range(start - 1, -1, -1)]
    for count, number in enumerate(order):
        check_cancelled()
        yield "Tracking the surface", count / len(frames)
        target = _Surface(*_wide(frames[number]))
        if number == start:
            places[number] = led.rest
        else:
            step = 1 if number > start else -1
            before, earlier = places[number - step], places.get(number - 2 * step)
            places[number] = led.moved(before, earlier, target, check_cancelled)
        checks.append(led.checked(places[number], target, tolerance))
        if not checks[-1].passed:
            return Tracked(None, mesh[1], checks, number)
    vertices = np.stack([places[number] for number in range(len(frames))]).astype(np.float32)
    return Tracked(vertices, mesh[1], checks, None)


def _wide(mesh: Mesh) -> Mesh:
    vertices, faces = mesh
    return np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(faces, np.int64)


class _Surface:
    """A mesh that can be asked for its nearest places."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self.vertices, self.faces = vertices, faces
        self.normals, self.areas = _normals(vertices, faces)
        self.vertex_normals = _at_vertices(len(vertices), faces, self.normals, self.areas)
        self._tree = igl.AABB()
        self._tree.init(vertices, faces)

    def nearest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest place (P, 3) to each of (P, 3), and the face (P,) that it is on."""
        _, faces, places = self._tree.squared_distance(
            self.vertices, self.faces, np.ascontiguousarray(points)
        )
        return places, faces


class _Led:
    """The mesh that is led: its faces, and which vertices are neighbours."""

    def __init__(self, rest: np.ndarray, faces: np.ndarray) -> None:
        self.rest, self.faces = rest, faces
        self.laplacian = _laplacian(len(rest), faces)

    def moved(
        self,
        before: np.ndarray,
        earlier: np.ndarray | None,
        target: _Surface,
        check_cancelled: Callable[[], None],
    ) -> np.ndarray:
        """Where the vertices (V, 3) are on the next surface, from where they were before."""
        displacement = self._begun(before, earlier, target)
        drawing = target.vertices, target.vertex_normals
        if len(target.vertices) > _DRAWN:
            chosen = np.linspace(0, len(target.vertices) - 1, _DRAWN).astype(np.int64)
            drawing = target.vertices[chosen], target.vertex_normals[chosen]
        for stiffness in _STIFFNESS:
            for _ in range(_ITERATIONS):
                check_cancelled()
                now = before + displacement
                weights, wanted = self._wishes(now, target, drawing)
                wished = wanted - (before * weights[:, None])
                displacement = _solve(
                    diags(weights) + stiffness * self.laplacian, wished, displacement
                )
        return self._settled(before + displacement, target)

    def _begun(
        self, before: np.ndarray, earlier: np.ndarray | None, target: _Surface
    ) -> np.ndarray:
        """A first displacement: none, or the last one again where that comes nearer."""
        still = np.zeros_like(before)
        if earlier is None:
            return still
        again = before - earlier
        off = [
            float(np.linalg.norm(target.nearest(before + moved)[0] - before - moved, axis=1).mean())
            for moved in (still, again)
        ]
        return again if off[1] < off[0] else still

    def _wishes(
        self, now: np.ndarray, target: _Surface, drawing: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """How strongly each vertex is drawn (V,), and that times the place (V, 3)."""
        own = _Surface(now, self.faces)
        places, faces = target.nearest(now)
        alike = (own.vertex_normals * target.normals[faces]).sum(axis=1) > _FACES_ALIKE
        weights = alike.astype(np.float64)
        wanted = places * weights[:, None]
        points, normals = drawing
        places, faces = own.nearest(points)
        alike = (normals * own.normals[faces]).sum(axis=1) > _FACES_ALIKE
        corners, points, places = self.faces[faces[alike]], points[alike], places[alike]
        share = len(now) / max(len(drawing[0]), 1) / 3
        for corner in range(3):
            at = corners[:, corner]
            np.add.at(weights, at, share)
            # A corner is wished to move as the place on its face has to.
            np.add.at(wanted, at, share * (now[at] + points - places))
        return weights, wanted

    def _settled(self, places: np.ndarray, target: _Surface) -> np.ndarray:
        """On the surface, evenly: vertices slide along it towards their neighbours."""
        degree = self.laplacian.diagonal()[:, None]
        for _ in range(3):
            normals = _Surface(places, self.faces).vertex_normals
            pull = -(self.laplacian @ places) / np.maximum(degree, 1)
            pull -= normals * (pull * normals).sum(axis=1, keepdims=True)
            slid = places + 0.3 * pull
            nearest, faces = target.nearest(slid)
            alike = (normals * target.normals[faces]).sum(axis=1) > _FACES_ALIKE
            places = np.where(alike[:, None], nearest, slid)
        return places

    def checked(self, places: np.ndarray, target: _Surface, tolerance: float) -> Check:
        own = _Surface(places, self.faces)
        ways = []
        turned = 0.0
        for asked, answering in ((own, target), (target, own)):
            middles = asked.vertices[asked.faces].mean(axis=1)
            nearest, faces = answering.nearest(middles)
            off = np.linalg.norm(nearest - middles, axis=1)
            shares = asked.areas / max(float(asked.areas.sum()), 1e-30)
            ways.append((float(off @ shares), float(shares[off > tolerance].sum()), off.max()))
            away = (asked.normals * answering.normals[faces]).sum(axis=1) < 0
            turned = max(turned, float(shares[away].sum()))
        mean, share, most = (max(values) for values in zip(*ways, strict=True))
        area = float(own.areas.sum() / max(float(target.areas.sum()), 1e-30))
        passed = (
            1 / _ALLOWED_AREA <= area <= _ALLOWED_AREA
            and share <= _ALLOWED_SHARE
            and most <= _ALLOWED_MOST * tolerance
            and turned <= _ALLOWED_TURNED
        )
        return Check(float(mean), float(share), float(most), turned, area, bool(passed))


# ------------------------------------------------------------------------------------------- parts


def _normals(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals (T, 3), zero where there is no area, and areas (T,)."""
    corners = vertices[faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(across, axis=1)
    normals = np.divide(
        across, lengths[:, None], out=np.zeros_like(across), where=lengths[:, None] > 0
    )
    return normals, lengths / 2


def _at_vertices(
    count: int, faces: np.ndarray, normals: np.ndarray, areas: np.ndarray
) -> np.ndarray:
    """Unit normals (V, 3): the mean of those of the faces around, by area."""
    found = np.zeros((count, 3))
    for corner in range(3):
        np.add.at(found, faces[:, corner], normals * areas[:, None])
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return np.divide(found, lengths, out=np.zeros_like(found), where=lengths > 0)


def _laplacian(count: int, faces: np.ndarray) -> csr_matrix:
    """Of the graph of edges: the degree of each vertex less one for each neighbour."""
    ends = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    ends = np.unique(np.sort(ends, axis=1), axis=0)
    rows, columns = np.concatenate([ends, ends[:, ::-1]]).T
    joined = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count)).tocsr()
    degree = np.asarray(joined.sum(axis=1)).ravel()
    return csr_matrix(diags(degree) - joined)


def _solve(matrix: csr_matrix, wanted: np.ndarray, start: np.ndarray) -> np.ndarray:
    """matrix (V, V), positive definite, times what = wanted (V, 3), by conjugate gradients."""
    scale = 1 / np.maximum(matrix.diagonal(), 1e-12)[:, None]
    found = start.copy()
    left = wanted - matrix @ found
    scaled = scale * left
    way = scaled.copy()
    product = (left * scaled).sum(axis=0)
    first = product.copy()
    for _ in range(_SOLVES):
        if (product <= 1e-10 * np.maximum(first, 1e-30)).all():
            break
        along = matrix @ way
        length = product / np.maximum((way * along).sum(axis=0), 1e-30)
        found += length * way
        left -= length * along
        scaled = scale * left
        following = (left * scaled).sum(axis=0)
        way = scaled + way * (following / np.maximum(product, 1e-30))
        product = following
    return found
