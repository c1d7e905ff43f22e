"""Jobs as the artist sees them: from a click on Generate to an object in the scene.

    preparing -> connecting -> sending -> queued -> running -> fetching -> placing -> done
                      any of these -> failed | cancelled | lost (the backend went away; fetch again)

Threads do what waits, touch no bpy, and put what they learn into a queue. `Jobs.tick`, a timer on
the main thread, takes it from there, follows the sources, and places one result at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from ..backend import environment
from ..backend.errors import (
    BadInput,
    Cancelled,
    FieldforgeError,
    InternalError,
    NotFound,
    Unreachable,
    WorkerDied,
    from_dict,
)
from ..backend.protocol import (
    DownloadModel,
    FieldToMesh,
    NeuralField,
    decode_result,
    decode_task,
    encode_task,
)
from .arrival import Arrival, arrivals_of, formed, placement_of, to_local
from .backend_process import Backend, Settings
from .capture import Origin, remember_result
from .client import Client, Record, gone
from .compose import Capture, Choices, Placement, compose, with_choices
from .fields.arrival import FieldArrival, fields_arrived
from .fields.kept import keep
from .fields.motion import extent_of_roots
from .fields.scene import add as add_fields
from .fields.scene import keep_nearest
from .fields.weights import moved
from .forming import Forming
from .generated import Making, remember
from .history import HistoryFile, Job, history_file, read_history
from .importing import Destination, add_meshes, push_undo, replace_mesh, world_extent
from .panorama.arrival import Arrived, arrived, forming_picture, where_it_is
from .panorama.scene import add as add_panorama
from .views.arrival import ViewsArrival, views_arrived
from .views.scene import add as add_views
from .views.scene import making_of

log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
TICK_BUDGET = 0.02
FOLLOW_SECONDS = 1.0
REDRAW_SECONDS = 0.5
KEPT_NOTICES = 3

# What the server says of a job that is not over yet; the states of its end are ours to tell.
SERVER_STATES = frozenset({"queued", "running"})


@dataclass(frozen=True)
class Notice:
    """Something that went wrong, shown until it is dismissed. key: of its job, or ""."""

    title: str
    cause: str
    remedy: str
    key: str = ""


@dataclass
class Connection:
    """What is known of the backend. state: "unknown", "connecting", "ready" or "failed"."""

    state: str = "unknown"
    words: str = ""
    models: list[dict[str, Any]] = field(default_factory=list)


class Jobs:
    """All jobs of this Blender. Made by `register`, closed by `unregister`; main thread only,
    except for the methods that begin with `_in_thread`."""

    def __init__(self, folder: Path, settings: Callable[[], Settings]) -> None:
        """folder: where the extension lies; settings: reads Preferences, on the main thread."""
        self.backend = Backend(folder)
        self.jobs: list[Job] = []
        self.notices: list[Notice] = []
        self.connection = Connection()
        self.forming = Forming()
        self._settings = settings
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._history = HistoryFile()
        self._file_serial = 0
        self._followed = self._redrawn = 0.0
        self._changed = False
        self._timer = self.tick  # one bound method, as Blender knows timers by identity

    def open(self) -> None:
        """Read the history of earlier sessions."""
        self._in_background(self._in_thread_load)

    def close(self) -> None:
        """Let go of everything; the backend ends, the threads notice."""
        self._closing.set()
        for job in self.jobs:
            job.unwanted.set()
        with contextlib.suppress(ValueError):
            bpy.app.timers.unregister(self._timer)
        self.forming.clear()
        self._history.save(self.jobs, wait=True)
        self.backend.process.close()

    # ----------------------------------------------------------------------------- what is asked

    def generate(
        self,
        capture: Capture,
        choices: Choices,
        destination: Destination,
        source: bpy.types.Object | None = None,
        kind: str = "points-to-mesh",
        origin: Origin | None = None,
        samples: bool = False,
    ) -> Job:
        """Begin a job. origin: what the results stand for while selected; samples: the model's
        results differ by seed."""
        job = Job(
            name=capture.name,
            kind=kind,
            model=choices.model,
            resolution=choices.resolution,
            seed=choices.seed,
            steps=choices.steps,
            guidance=choices.guidance,
            variations=choices.variations,
            destination=destination,
            source=source.name if source else "",
            source_uid=source.session_uid if source else 0,
            file=bpy.data.filepath,
            file_serial=self._file_serial,
            origin=origin,
            watch=choices.preview,
            sampled=samples,
        )
        self.jobs.insert(0, job)
        self._in_background(self._in_thread_generate, job, capture, choices, self._settings())
        return job

    def download(self, model_id: str, title: str, license: str) -> Job:
        """Begin to fetch the weights of a model, whose licence was accepted."""
        job = Job(
            name=title,
            kind=DownloadModel.kind,
            model=model_id,
            resolution=0,
            seed=0,
            destination=Destination(f"Download of {title}", np.eye(4)),
            state="connecting",
            file_serial=self._file_serial,
        )
        self.jobs.insert(0, job)
        task = DownloadModel(name=title, model=model_id, license=license)
        self._in_background(self._in_thread_download, job, encode_task(task), self._settings())
        return job

    def regenerate(
        self,
        target: bpy.types.Object,
        making: Making,
        region: np.ndarray,
        destination: Destination,
        watch: bool,
        origin: Origin | None = None,
    ) -> Job:
        """Make the part of a generated object anew that lies in `region`, (4, 4) as in a task."""
        job = Job(
            name=target.name,
            kind=making.kind,
            model=making.model,
            resolution=0,
            seed=new_seed(),
            steps=making.steps,
            guidance=making.guidance,
            sampled=True,
            destination=destination,
            placement=placement_of(making.to_local, destination.matrix_world),
            source=target.name,
            source_uid=target.session_uid,
            state="connecting",
            file=bpy.data.filepath,
            file_serial=self._file_serial,
            origin=origin,
            watch=watch,
        )
        self.jobs.insert(0, job)
        changes = {
            "latent": making.latent,
            "region": region,
            "seed": job.seed,
            "variations": 1,
            "preview": watch,
            "model": making.model,  # which may not be the default any more
        }
        settings = self._settings()
        self._in_background(self._in_thread_repeat, job, making.job_id, changes, settings)
        return job

    def repeat(
        self, job_id: str, kind: str, making: Job, destination: Destination, watch: bool
    ) -> Job:
        """The task of an earlier job once more, with a new seed. making: how it was made."""
        job = dataclasses.replace(
            making,
            kind=kind,
            seed=new_seed(),
            sampled=True,
            destination=destination,
            state="connecting",
            file=bpy.data.filepath,
            file_serial=self._file_serial,
            watch=watch,
        )
        self.jobs.insert(0, job)
        changes = {"seed": job.seed, "preview": watch}
        self._in_background(self._in_thread_repeat, job, job_id, changes, self._settings())
        return job

    def run_again(self, job: Job) -> Job:
        """The same task once more, as a new job; where seeds matter, with a new one."""
        seed = new_seed() if job.sampled else job.seed
        again = Job(
            name=job.name,
            kind=job.kind,
            model=job.model,
            resolution=job.resolution,
            seed=seed,
            steps=job.steps,
            guidance=job.guidance,
            variations=job.variations,
            sampled=job.sampled,
            destination=dataclasses.replace(job.destination),
            placement=job.placement,
            source=job.source,
            source_uid=job.source_uid,
            state="connecting",
            file=bpy.data.filepath,
            file_serial=self._file_serial,
            origin=job.origin,
            watch=job.watch,
        )
        self.jobs.insert(0, again)
        changes = {"seed": seed} if job.sampled else {}
        settings = self._settings()
        self._in_background(self._in_thread_repeat, again, job.job_id, changes, settings)
        return again

    def fetch(self, job: Job) -> None:
        """Get the result of a job (again), waiting for it when it still runs, and place it here."""
        self.notices = [notice for notice in self.notices if notice.key != job.key]
        was_lost = job.state == "lost"
        job.unwanted.clear()
        job.started = time.monotonic()
        job.error, job.fraction, job.state, job.stage = None, 0.0, "connecting", ""
        if job.file and job.file == bpy.data.filepath and job.source in bpy.data.objects:
            job.source_uid = bpy.data.objects[job.source].session_uid
        job.file, job.file_serial = bpy.data.filepath, self._file_serial
        self._in_background(self._in_thread_fetch, job, self._settings(), was_lost)

    def cancel(self, job: Job) -> None:
        """Stop a job. It is over for the artist at once; the backend is told in a thread."""
        if not job.active:
            return
        job.unwanted.set()
        job.placed = None
        self._end(job, "cancelled")
        if job.job_id:
            self._in_background(self._in_thread_tell, Client.cancel, job.job_id, self._settings())

    def delete(self, job: Job) -> None:
        """Remove a job from the history, and its files from the backend."""
        self.cancel(job)
        self.jobs.remove(job)
        self._save()
        if job.job_id:
            self._in_background(self._in_thread_tell, Client.delete, job.job_id, self._settings())

    def connect(self, say: Callable[[str, FieldforgeError | None], None] | None = None) -> None:
        """Start or contact the backend. `say` is called on the main thread with the outcome."""
        self._in_background(self._in_thread_connect, self._settings(), say)

    def disconnect(self) -> None:
        """End the local backend and forget what was known of it, after settings have changed."""
        self.backend.process.stop()
        self.connection = Connection()
        self._changed = True

    def find(self, key: str) -> Job | None:
        return next((job for job in self.jobs if job.key == key), None)

    @property
    def active(self) -> list[Job]:
        return [job for job in self.jobs if job.active]

    def tell(self, title: str, error: FieldforgeError, key: str = "") -> None:
        """Show an error in the panel until it is dismissed."""
        notice = Notice(title, error.cause, error.remedy, key)
        self.notices = [notice, *(old for old in self.notices if old != notice)][:KEPT_NOTICES]
        self._changed = True

    def file_loaded(self) -> None:
        """Another file is open: what was begun in the old one does not belong into it."""
        self._file_serial += 1
        for job in self.jobs:
            job.source_uid, job.origin = 0, None  # the old ids may name other objects now
            for told in (job.destination.fields, job.destination.views):
                told.pop("into_uid", None)
            if job.file and job.file == bpy.data.filepath:
                job.file_serial = self._file_serial
        self.forming.clear()

    def undone(self) -> None:
        """Undo or redo has changed the scene: previews may be gone, or back from earlier."""
        if self.forming.used:
            self.forming.distrust()
            self.wake()

    # -------------------------------------------------------------------------------- main thread

    def tick(self) -> float | None:
        """Take in what the threads learnt; the seconds until the next tick, None when at rest."""
        self._drain()
        now = time.monotonic()
        if now - self._followed > FOLLOW_SECONDS:
            self._followed = now
            self._follow_sources()
        self._place_next()
        self._show_forming()
        if self._changed or (self.busy and now - self._redrawn > REDRAW_SECONDS):
            self._changed, self._redrawn = False, now
            redraw()
        waiting = self.busy or not self._events.empty() or not self.forming.idle
        return TICK_SECONDS if waiting else None

    @property
    def busy(self) -> bool:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        return bool(self._threads) or any(job.placed is not None for job in self.jobs)

    def wake(self) -> None:
        """Have the tick run until there is nothing left to wait for."""
        if not bpy.app.timers.is_registered(self._timer):
            bpy.app.timers.register(self._timer, first_interval=0.01, persistent=True)

    def _drain(self) -> None:
        limit = time.monotonic() + TICK_BUDGET
        while time.monotonic() < limit:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return
            self._changed = True
            try:
                event()
            except Exception:  # a timer that raises is never called again
                log.exception("an event of a job")

    def _follow_sources(self) -> None:
        """Keep the last transform of each source, for the case that it is deleted meanwhile."""
        for job in self.active:
            source = self._source_of(job)
            if source is not None:
                job.source = source.name
                job.destination.matrix_world = np.array(source.matrix_world, np.float64)

    def _source_of(self, job: Job) -> bpy.types.Object | None:
        if not job.source_uid:
            return None
        named = bpy.data.objects.get(job.source)
        if named is not None and named.session_uid == job.source_uid:
            return named
        return next((item for item in bpy.data.objects if item.session_uid == job.source_uid), None)

    def _show_forming(self) -> None:
        """What jobs of this file have formed shows; the previews of those that are over go."""
        here = [job for job in self.jobs if job.forming and job.file_serial == self._file_serial]
        if (not here and self.forming.idle) or why_not_touched():
            return
        try:
            self.forming.update(here, lambda job: self._beside(job, self._source_of(job)))
        except Exception:
            log.exception("showing what forms")
            for job in here:  # the result matters, and it does not depend on this
                job.watch, job.forming = False, []

    def _place_next(self) -> None:
        job = next((job for job in self.jobs if job.placed is not None), None)
        if job is None:
            return
        if job.file_serial != self._file_serial:
            job.placed = None
            job.stage = "Finished while another file was open"
            self._end(job, "done")
            return
        reason = why_not_now()
        if reason:
            self._changed |= job.stage != reason
            job.stage = reason
            return
        self._follow_sources()
        self._place(job)

    def _place(self, job: Job) -> None:
        placed, job.placed, job.forming = job.placed, None, []
        self._show_forming()  # its previews are no part of the undo step
        assert placed is not None  # noqa: S101
        source = self._source_of(job)
        if source is not None and job.destination.hide == [job.source]:
            job.destination.hide = [source.name]
        try:
            created = self._put_into_scene(job, placed, source)
            push_undo(f"Fieldforge: {created[0].name}")
        except Exception as error:
            log.exception("placing %s", job.name)
            self._fail(job, _unforeseen(error))
            return
        for item in created:
            if job.origin is not None:
                remember_result(item, job.origin)
        job.notes = _notes_of(placed)
        if isinstance(placed, Arrived | ViewsArrival | FieldArrival):
            self._note_sampling(job, placed.report)
            job.stage, job.faces = where_it_is(placed), placed.faces
        else:
            self._note_sampling(job, placed[0].report)
            empty = job.variations - len(placed)
            job.stage = f"{empty} of {job.variations} had no surface" if empty else ""
            job.faces = sum(len(arrival.mesh.triangles) for arrival in placed)
        self._end(job, "done")

    def _note_sampling(self, job: Job, told: dict[str, Any]) -> None:
        """What the backend chose by itself is known now, and shown in the history."""
        if job.sampled:
            job.model = str(told.get("model") or job.model)
            job.steps = told.get("steps", job.steps)
            job.guidance = told.get("guidance", job.guidance)

    def _put_into_scene(
        self,
        job: Job,
        arrivals: list[Arrival] | Arrived | ViewsArrival | FieldArrival,
        source: bpy.types.Object | None,
    ) -> list[bpy.types.ID]:
        if isinstance(arrivals, Arrived):
            return add_panorama(arrivals, job.destination)
        if isinstance(arrivals, ViewsArrival):
            frame = job.placement.matrix_world
            return add_views(arrivals, job.destination, frame, making_of(job))
        if isinstance(arrivals, FieldArrival):
            frame = job.placement.matrix_world
            return add_fields(arrivals, job.destination, frame, self._beside_ends(job))
        local = to_local(job.placement)
        if job.destination.replaces and source is not None:
            replace_mesh(source, arrivals[0].mesh)
            remember(source, _making(job, arrivals[0], local))
            return [source]
        meshes, names = [arrival.mesh for arrival in arrivals], _names(job, arrivals)
        created = add_meshes(meshes, names, job.destination, self._beside(job, source))
        for new, arrival in zip(created, arrivals, strict=True):
            remember(new.item, _making(job, arrival, new.baked @ local))
            if arrival.neural is not None:
                keep(new.item, moved(arrival.neural, new.baked @ local))
                keep_nearest(new.item, arrival.report)
        return [new.item for new in created]

    def _beside(self, job: Job, source: bpy.types.Object | None) -> tuple[float, float] | None:
        """(lowest, highest) x in the world of what was the source, while it shows."""
        items = [source] if source is not None else []
        if not items and job.origin is not None:
            named = [(bpy.data.objects.get(name), uid) for name, uid in job.origin.members]
            items = [item for item, uid in named if item is not None and item.session_uid == uid]
        return world_extent([item for item in items if item.name not in job.destination.hide])

    def _beside_ends(self, job: Job) -> tuple[float, float] | None:
        """(lowest, highest) x in the world of the two between which a result lies."""
        options = job.destination.fields
        return extent_of_roots([options[end] for end in ("first", "second") if end in options])

    def _end(self, job: Job, state: str) -> None:
        job.seconds, job.state, job.forming = job.elapsed, state, []
        self._changed = True
        self._show_forming()
        if not self.forming.idle:
            self.wake()
        self._save()

    def _fail(self, job: Job, error: FieldforgeError) -> None:
        if not job.active:  # cancelled meanwhile
            return
        if isinstance(error, Cancelled):
            self._end(job, "cancelled")
            return
        job.error = error.to_dict()
        self._end(job, "lost" if isinstance(error, Unreachable) and job.job_id else "failed")
        if isinstance(error, Unreachable):
            self._connection_is("failed", error.cause)
        self.tell(f"{job.name} was not finished", error, job.key)

    def _update(self, job: Job, **changes: Any) -> None:
        """Called from a thread: change fields of a job on the main thread, unless it is over."""

        def apply() -> None:
            if job.active and not job.unwanted.is_set():
                for name, value in changes.items():
                    setattr(job, name, value)
                if "job_id" in changes:
                    self._save()

        self._events.put(apply)

    # ------------------------------------------------------------------------------------ threads

    def _in_background(self, function: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(
            target=function, args=arguments, name=f"fieldforge{function.__name__}", daemon=True
        )
        self._threads.append(thread)
        thread.start()
        self._changed = True
        self.wake()

    def _in_thread_generate(
        self, job: Job, capture: Capture, choices: Choices, settings: Settings
    ) -> None:
        with self._failing(job):
            task, placement = compose(capture, choices)
            self._events.put(lambda: self._composed(job, placement))
            client = self._in_thread_client(settings, job)
            job_id = self._in_thread_send(job, encode_task(with_choices(task, choices)), client)
            self._in_thread_follow(job, job_id, placement, client, settings)

    def _downloaded(self, job: Job) -> None:
        if job.active:
            job.stage = ""
            self._end(job, "done")

    def _composed(self, job: Job, placement: Placement) -> None:
        job.placement = placement
        if not job.source_uid:  # nothing to follow: the frame of the voxels is where it goes
            job.destination.matrix_world = placement.matrix_world

    def _in_thread_download(self, job: Job, body: bytes, settings: Settings) -> None:
        with self._failing(job):
            client = self._in_thread_client(settings, job)
            job_id = self._in_thread_send(job, body, client)
            self._in_thread_follow(job, job_id, job.placement, client, settings)

    def _in_thread_repeat(
        self, job: Job, old_id: str, changes: dict[str, Any], settings: Settings
    ) -> None:
        """Send the task of an earlier job once more, with some of its fields changed."""
        with self._failing(job):
            client = self._in_thread_client(settings, job)
            body = client.task(old_id)
            if changes:
                body = encode_task(dataclasses.replace(decode_task(body), **changes))
            job_id = self._in_thread_send(job, body, client)
            self._in_thread_follow(job, job_id, job.placement, client, settings)

    def _in_thread_fetch(self, job: Job, settings: Settings, was_lost: bool) -> None:
        with self._failing(job):
            client = self._in_thread_client(settings, job)
            if was_lost and ended_with_the_backend(client.job(job.job_id)):
                old_id = job.job_id  # it has to be done again, but not asked for again
                self._in_thread_send(job, client.task(old_id), client)
                client.delete(old_id)
            self._in_thread_follow(job, job.job_id, job.placement, client, settings)

    def _in_thread_client(self, settings: Settings, job: Job) -> Client:
        def report(stage: str) -> None:
            self._update(job, state="connecting", stage=stage)

        client = self.backend.connect(settings, report, job.unwanted.is_set)
        self._in_thread_learn(client)
        return client

    def _in_thread_learn(self, client: Client) -> None:
        """Ask the backend what it is and which models it has."""
        health, models = client.health(), client.models()
        device = health.get("device") or "auto"
        where = "" if device == "auto" else f" ({device})"
        words = f"Backend {health.get('version', '')} ready{where}"
        self._events.put(lambda: self._connection_is("ready", words, models))

    def _connection_is(self, state: str, words: str, models: list[Record] | None = None) -> None:
        """The models stay known while the backend is away, so that the chosen one stays chosen."""
        models = self.connection.models if models is None else models
        self.connection = Connection(state, words, models)

    def _in_thread_send(self, job: Job, body: bytes, client: Client) -> str:
        if job.unwanted.is_set():
            raise Cancelled("The job was cancelled.")
        self._update(job, state="sending", stage="")
        record = client.submit(body)
        job.job_id = record["id"]  # at once, so that a cancel from now on reaches the backend
        if job.unwanted.is_set():
            client.cancel(record["id"])
            raise Cancelled("The job was cancelled.")
        self._update(job, state="queued", job_id=record["id"], server=client.url)
        return record["id"]

    def _in_thread_follow(
        self, job: Job, job_id: str, placement: Placement, client: Client, settings: Settings
    ) -> None:
        with self._failing(job):
            self._await_end(job, job_id, placement, client, settings)
            if job.unwanted.is_set() or self._closing.is_set():
                return
            if not job.makes_meshes:
                self._in_thread_learn(client)
                self._events.put(lambda: self._downloaded(job))
                return
            self._update(job, state="fetching", stage="", fraction=1.0)
            try:
                body = client.result(job_id)
            except Unreachable:
                raise gone(self.backend.alive(settings)) from None
            self._in_thread_arrived(job, body, placement, lambda: _ends_of(client.task(job_id)))

    def _in_thread_arrived(
        self,
        job: Job,
        body: bytes,
        placement: Placement,
        ends: Callable[[], tuple[NeuralField, ...]],
    ) -> None:
        """Prepare what came for the scene. The bytes are let go of before that is changed."""
        result = decode_result(body)
        placed: list[Arrival] | Arrived | ViewsArrival | FieldArrival | None
        placed = arrived(result, job.destination.name, job.destination.panorama)
        if placed is None:
            placed = views_arrived(result, job.destination.name, job.destination.views)
        if placed is None:
            placed = fields_arrived(result, placement, job.seed, ends)
        if placed is None:
            placed = arrivals_of(result, placement, job.seed)
        self._update(job, state="placing", stage="", placed=placed)

    def _await_end(
        self, job: Job, job_id: str, placement: Placement, client: Client, settings: Settings
    ) -> None:
        seen = 0

        def unwanted() -> bool:
            return job.unwanted.is_set() or self._closing.is_set()

        for record in client.follow(job_id, unwanted, lambda: self.backend.alive(settings)):
            state = record["state"]
            if state in SERVER_STATES:
                stage, fraction = record.get("stage") or "", float(record.get("fraction") or 0)
                self._update(job, state=state, stage=stage, fraction=fraction)
                preview = int(record.get("preview") or 0)
                if job.watch and preview > seen:
                    seen = preview
                    self._in_thread_see(job, job_id, placement, client)
            elif state == "failed":
                raise from_dict(record.get("error") or {})
            elif state == "cancelled":
                raise Cancelled("The job was cancelled.")

    def _in_thread_see(self, job: Job, job_id: str, placement: Placement, client: Client) -> None:
        """Fetch what has formed. A preview that does not come is no reason to fail."""
        try:
            result = decode_result(client.preview(job_id))
            picture = forming_picture(result)
            now = formed(result, placement) if picture is None else [picture]
            self._update(job, forming=now)
        except FieldforgeError as error:
            log.info("preview of job %s: %s", job_id, error)

    def _in_thread_tell(
        self, call: Callable[[Client, str], Any], job_id: str, settings: Settings
    ) -> None:
        """Cancel or delete a job at the backend; where none runs there is nothing to tell."""
        try:
            client = self.backend.connected(settings)
            if client is not None:
                call(client, job_id)
        except FieldforgeError as error:
            log.info("%s of job %s: %s", call.__name__, job_id, error)

    def _in_thread_connect(
        self, settings: Settings, say: Callable[[str, FieldforgeError | None], None] | None
    ) -> None:
        self._events.put(lambda: self._connection_is("connecting", "Connecting"))
        try:
            client = self.backend.connect(settings, lambda stage: None, self._closing.is_set)
            client.jobs()  # health needs no token; this does
            self._in_thread_learn(client)
            error = None
        except FieldforgeError as caught:
            error = caught
        except Exception as caught:
            log.exception("connecting")
            error = _unforeseen(caught)
        if error is not None:
            words = str(error)
            self._events.put(lambda: self._connection_is("failed", words))
        if say is not None:
            self._events.put(lambda: say(self.connection.words, error))

    @contextlib.contextmanager
    def _failing(self, job: Job):
        """What goes wrong in a thread becomes the failure of its job, on the main thread."""
        try:
            yield
        except NotFound:
            self._tell_of(job, unknown_job())
        except FieldforgeError as error:
            self._tell_of(job, error)
        except Exception as error:
            log.exception("job %s", job.name)
            self._tell_of(job, _unforeseen(error))

    def _tell_of(self, job: Job, error: FieldforgeError) -> None:
        self._events.put(lambda: self._fail(job, error))

    # ------------------------------------------------------------------------------------ history

    def _save(self) -> None:
        self._history.save(self.jobs)

    def _in_thread_load(self) -> None:
        jobs = read_history(history_file())
        self._events.put(lambda: self._merge(jobs))

    def _merge(self, jobs: list[Job]) -> None:
        known = {job.key for job in self.jobs}
        self.jobs += [job for job in jobs if job.key not in known]


def _ends_of(body: bytes) -> tuple[NeuralField, ...]:
    """The fields of a task between whose shapes its result lies."""
    task = decode_task(body)
    return task.fields() if isinstance(task, FieldToMesh) else ()


def _notes_of(placed: list[Arrival] | Arrived | ViewsArrival | FieldArrival) -> list[str]:
    """Sentences for the person about a result, each once."""
    reports = [each.report for each in placed] if isinstance(placed, list) else [placed.report]
    told = (report.get(name) or () for report in reports for name in ("warnings", "notes"))
    return list(dict.fromkeys(str(sentence) for sentences in told for sentence in sentences))


def new_seed() -> int:
    """Small enough to be read out, and hardly ever the same twice."""
    return random.randrange(1, 100_000)  # noqa: S311


def _names(job: Job, arrivals: list[Arrival]) -> list[str]:
    if job.variations == 1:
        return [job.destination.name]
    return [f"{job.destination.name}, seed {arrival.seed}" for arrival in arrivals]


def _making(job: Job, arrival: Arrival, local: np.ndarray) -> Making:
    told = arrival.report
    return Making(
        job_id=job.job_id,
        name=job.name,
        kind=job.kind,
        model=told.get("model") or job.model,
        seed=arrival.seed,
        steps=told.get("steps", job.steps),
        guidance=told.get("guidance", job.guidance),
        to_local=local,
        latent=arrival.latent,
    )


def unknown_job() -> BadInput:
    return BadInput(
        "The backend does not know this job any more.",
        "Its result was removed to make room, or another backend is used now. Generate it anew.",
    )


def ended_with_the_backend(record: Record) -> bool:
    """True when a job failed for no fault of its own."""
    code = (record.get("error") or {}).get("code")
    return record["state"] == "failed" and code == WorkerDied.code


def _unforeseen(error: Exception) -> InternalError:
    return InternalError(
        f"Something unforeseen happened: {type(error).__name__}: {error}.",
        f"Try again. If it stays so, report it with the log: {log_file()}",
    )


def log_file() -> Path:
    """The add-on's own log, beside the backend's."""
    return environment.home() / "logs" / "blender.log"


# ---------------------------------------------------------------------------------- Blender's state


def why_not_now() -> str:
    """Why the scene must not be changed at this moment, or ""."""
    reason = why_not_touched()
    if reason:
        return reason
    windows = bpy.context.window_manager.windows
    active = windows[0].view_layer.objects.active if windows else None
    if active is not None and active.mode != "OBJECT":
        # An undo step made now would be one of the mesh being edited, without the new object.
        return "Ready. Leave this mode to place the mesh"
    return ""


def why_not_touched() -> str:
    """Why not even a preview may change at this moment, or ""."""
    if bpy.app.is_job_running("RENDER"):
        return "Waiting for the render to end"
    for window in bpy.context.window_manager.windows:
        if any("TRANSFORM_OT" in operator.bl_idname for operator in window.modal_operators):
            return "Waiting for the move to end"
    return ""


def redraw() -> None:
    """Have the sidebars and Preferences drawn again."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "PREFERENCES":
                area.tag_redraw()
            elif area.type == "VIEW_3D":
                for region in area.regions:
                    if region.type == "UI":
                        region.tag_redraw()
