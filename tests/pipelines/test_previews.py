"""What forms is shown, for a small share of the time."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from backend import pipelines, protocol
from backend.geometry import wavelets
from backend.geometry.isosurface import marching_cubes
from backend.geometry.transforms import apply_to_points, index_to_cube
from backend.models.wala.config import AutoencoderConfig, UVitConfig, WalaConfig
from backend.pipelines import Context, previews
from backend.pipelines.previews import SHARE, Previewer
from backend.protocol import MeshResult, Preview, Shape
from backend.sampling import Step
from tests import wala_models


def test_a_preview_lies_where_the_result_will_lie() -> None:
    nodes = np.arange(256, dtype=np.float32) / 128 - 1
    x, y, z = nodes[:, None, None] - 0.1, nodes[:, None] + 0.2, nodes - 0.05
    field = np.clip(np.sqrt(x * x + y * y + z * z) - 0.5, -0.1, 0.1).astype(np.float32)
    tree = wavelets.forward(torch.from_numpy(field))
    coarse = wavelets.synthesize_level(tree.low, tree.highs[0]).numpy()
    vertices, _ = marching_cubes(previews.in_cube(coarse))
    placed = apply_to_points(index_to_cube(previews.SIDE), vertices)
    middle = (placed.min(axis=0) + placed.max(axis=0)) / 2
    np.testing.assert_allclose(middle, [0.1, -0.2, 0.05], atol=1e-3)
    radii = np.linalg.norm(placed - middle, axis=1)
    np.testing.assert_allclose(radii, 0.5, atol=0.01)


# ---------------------------------------------------------------------------------------- the cost


class Machine:
    """Pretends to work: a clock that goes on with every step, decode and estimate."""

    def __init__(self, step: float, decode: float, estimate: float, learned: bool) -> None:
        self.now = 0.0
        self.seconds = {"step": step, "decode": decode, "estimate": estimate}
        self.model = SimpleNamespace(config=wala_models.config_for("shape"))
        self.pace: dict[str, float] = {}
        self.dtype = torch.float32
        self.previews = SimpleNamespace(ready=learned)

    def clock(self) -> float:
        return self.now

    def previews_of(self, steps: int, batch: int = 1) -> Previewer:
        previewer = Previewer(self, np.eye(4), batch, 0.0, self.clock)  # type: ignore[arg-type]
        previewer._decoded = lambda start: self._spend("decode", batch)  # type: ignore
        previewer._estimated = lambda start: self._spend("estimate", batch)  # type: ignore
        previewer._mesh = lambda field: MeshResult()  # type: ignore
        for number in range(steps):
            self.now += self.seconds["step"]
            nothing = torch.zeros(batch, 4, 12, 12, 12)
            previewer.after(Step(number, steps, 0, nothing, nothing, nothing))
        return previewer

    def _spend(self, what: str, batch: int) -> list[None]:
        self.previews.ready = True  # what is decoded is learned from
        self.now += batch * self.seconds[what]
        return [None] * batch


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("steps", [5, 8, 100])
@pytest.mark.parametrize(("step", "decode"), [(8.0, 5.0), (80.0, 5.0), (0.03, 0.01), (0.5, 5.0)])
def test_previews_take_at_most_their_share(
    step: float, decode: float, steps: int, batch: int, learned: bool
) -> None:
    machine = Machine(step, decode, 0.002, learned)
    machine.pace = {"preview by decoder": decode, "decode": decode}
    previewer = machine.previews_of(steps, batch)
    total = steps * step + batch * decode
    assert previewer.seconds <= SHARE * total + 1e-9
    assert previewer.seconds <= SHARE * machine.now + 1e-9


def test_a_first_decode_whose_cost_is_unknown_is_guessed_at() -> None:
    machine = Machine(step=0.01, decode=1.0, estimate=0.002, learned=False)
    assert machine.previews_of(8).shown == 0


def test_every_step_is_shown_once_something_was_learned() -> None:
    """As on a processor at the published size: a step of 8 s, a decode of 5 s."""
    machine = Machine(step=8.0, decode=5.0, estimate=0.02, learned=True)
    machine.pace = {"preview by decoder": 5.0, "decode": 5.0}
    previewer = machine.previews_of(8)
    assert previewer.shown == 8
    assert previewer.seconds < 0.01 * machine.now
    machine = Machine(step=8.0, decode=5.0, estimate=0.02, learned=False)
    machine.pace = {"preview by decoder": 5.0, "decode": 5.0}
    assert machine.previews_of(8).shown == 8


def test_the_real_decoder_shows_every_step_but_the_last_where_it_is_quick() -> None:
    machine = Machine(step=1.0, decode=0.01, estimate=0.002, learned=True)
    machine.pace = {"preview by decoder": 0.01, "decode": 0.01}
    previewer = machine.previews_of(8)
    assert previewer.seconds == pytest.approx(7 * 0.01 + 0.002)


def _published() -> WalaConfig:
    """Of the sizes that models of a billion parameters have."""
    small = wala_models.config_for("points")
    denoiser = UVitConfig(
        width=1152,
        depth=32,
        heads=16,
        channels=128,
        residual_blocks=3,
        context_channels=1024,
        cross_attention=True,
    )
    return dataclasses.replace(small, autoencoder=AutoencoderConfig(), denoiser=denoiser)


@pytest.mark.parametrize("steps", [5, 8])
@pytest.mark.parametrize("batch", [1, 4])
def test_the_first_job_of_a_published_model_is_shown_from_its_first_step(
    steps: int, batch: int
) -> None:
    """On a processor, where nothing was measured or learned: a decode of a third of a step."""
    machine = Machine(step=10.7 * batch, decode=3.74, estimate=0.02, learned=False)
    machine.model.config = _published()
    previewer = machine.previews_of(steps, batch)
    assert previewer.shown == steps
    assert previewer.seconds < 4.5 * batch


def test_a_first_decode_that_may_take_too_long_waits_for_more_steps() -> None:
    """Without float32, convolutions on a processor take several times as long."""
    for steps, shown in ((5, 0), (12, 12)):
        machine = Machine(step=10.7, decode=12.0, estimate=0.02, learned=False)
        machine.model.config, machine.dtype = _published(), torch.bfloat16
        assert machine.previews_of(steps).shown == shown


# ------------------------------------------------------------------------------------ a whole job


@pytest.mark.usefixtures("store")
def test_the_first_job_is_shown_by_what_its_own_first_preview_taught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def way(self: Previewer, step: Step) -> str:
        return "estimate" if self._loaded.previews.ready else "decoder"

    monkeypatch.setattr(Previewer, "_way", way)  # as where a decode is dear
    *news, result = pipelines.run(Shape(seed=1, steps=4, preview=True), Context("cpu"))
    shown = [step for step in news if isinstance(step, Preview)]
    assert len(shown) == 4
    for preview in shown:
        (formed,) = preview.meshes
        assert 100 < len(formed.faces) < 100_000
    (formed,) = shown[-1].meshes
    distances = cKDTree(result.vertices).query(formed.vertices)[0]
    assert np.median(distances) < 0.1


@pytest.mark.usefixtures("store")
def test_the_second_job_shows_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    # The share of the time is tested above by a clock of its own: this machine's may stand still.
    monkeypatch.setattr(previews, "SHARE", 1e9)
    first, second = (
        list(pipelines.run(Shape(seed=seed, steps=4, preview=True), Context("cpu")))
        for seed in (1, 2)
    )
    shown = [step for step in second if isinstance(step, Preview)]
    assert len(shown) == 4
    assert second[-1].report["previews"] == 4
    assert 0 < second[-1].report["preview_share"] < 1
    ((formed,), result) = shown[-1].meshes, second[-1]
    assert 100 < len(formed.faces) < 100_000
    np.testing.assert_array_equal(formed.to_source, protocol.turned_up("z"))
    # What is shown last looks like what comes out, and not like the shape it was learned from.
    to_own, to_other = (
        np.median(cKDTree(mesh.vertices).query(formed.vertices)[0]) for mesh in (result, first[-1])
    )
    assert to_own < 0.6 * to_other
    silent = list(pipelines.run(Shape(seed=2, steps=4), Context("cpu")))
    assert not [step for step in silent if isinstance(step, Preview)]
    assert "previews" not in silent[-1].report
    np.testing.assert_array_equal(silent[-1].vertices, result.vertices)
