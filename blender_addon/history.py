"""A job, and the history file that keeps what is needed to fetch or repeat it.

The file outlives Blender, and is written in threads.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend import environment
from ..backend.protocol import DownloadModel
from .arrival import Arrival
from .compose import PlacedMesh, Placement
from .fields.arrival import FieldArrival
from .importing import Destination
from .panorama.arrival import Arrived, FormingPicture
from .views.arrival import ViewsArrival

if TYPE_CHECKING:
    from .capture import Origin

log = logging.getLogger(__name__)

KEPT_JOBS = 50

ACTIVE = frozenset(
    {"preparing", "connecting", "sending", "queued", "running", "fetching", "placing"}
)
STAGES = {
    "preparing": "Preparing the source",
    "connecting": "Connecting",
    "sending": "Sending",
    "queued": "Waiting for its turn",
    "running": "Getting ready",  # until it tells a stage: the first job waits for what is loaded
    "fetching": "Fetching the mesh",
    "placing": "Placing the mesh",
}


@dataclass(eq=False)
class Job:
    """One job. The fields up to `error` are kept in the history file.

    seed: of the first variation; steps, guidance: None until the backend told what it used;
    sampled: by a model whose results differ by seed; notes: what the backend tells of its result.
    """

    name: str
    kind: str
    model: str
    resolution: int
    seed: int
    destination: Destination
    steps: int | None = None
    guidance: float | None = None
    variations: int = 1
    sampled: bool = False
    placement: Placement = field(default_factory=Placement)
    source: str = ""
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    job_id: str = ""
    server: str = ""
    state: str = "preparing"
    created: float = field(default_factory=time.time)
    seconds: float = 0.0
    faces: int = 0
    file: str = ""
    error: dict[str, str] | None = None
    notes: list[str] = field(default_factory=list)

    stage: str = ""
    fraction: float = 0.0
    started: float = field(default_factory=time.monotonic)
    source_uid: int = 0
    origin: Origin | None = None
    file_serial: int = -1
    watch: bool = False
    forming: list[PlacedMesh | FormingPicture | None] = field(default_factory=list, repr=False)
    placed: list[Arrival] | Arrived | ViewsArrival | FieldArrival | None = field(
        default=None, repr=False
    )
    unwanted: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def recent(self) -> bool:
        """Begun or fetched since Blender was started."""
        return self.file_serial >= 0

    @property
    def makes_meshes(self) -> bool:
        return self.kind != DownloadModel.kind

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    @property
    def elapsed(self) -> float:
        """Seconds since it began, or how long it took."""
        return time.monotonic() - self.started if self.active else self.seconds


def history_file() -> Path:
    return environment.home() / "blender" / "history.json"


def write_history(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


class HistoryFile:
    """Writes the history in threads; what was asked for last stays."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._written = 0

    def save(self, jobs: list[Job], wait: bool = False) -> None:
        """Forget jobs beyond KEPT_JOBS, and write the others; wait: before returning."""
        del jobs[KEPT_JOBS:]
        text = json.dumps({"jobs": [to_record(job) for job in jobs]})
        arguments = (history_file(), text, time.monotonic_ns())
        if wait:
            self._write(*arguments)
        else:
            threading.Thread(target=self._write, args=arguments, name="fieldforge-save").start()

    def _write(self, path: Path, text: str, moment: int) -> None:
        with self._lock:
            if moment < self._written:
                return
            self._written = moment
            try:
                write_history(path, text)
            except OSError as error:
                log.warning("the history cannot be written: %s", error)


def read_history(path: Path) -> list[Job]:
    """The jobs of earlier sessions; one that was under way then is lost, and can be fetched."""
    try:
        records = list(json.loads(path.read_text(encoding="utf-8"))["jobs"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    jobs = []
    for record in records:
        try:
            job = from_record(record)
        except (KeyError, TypeError, ValueError):
            continue
        if job.active and not job.job_id:
            continue
        if job.active:
            job.state = "lost"
        jobs.append(job)
    return jobs


_KEPT = (
    *("name", "kind", "model", "resolution", "seed", "source", "key", "job_id", "server"),
    *("steps", "guidance", "variations", "sampled", "watch"),
    *("state", "created", "seconds", "faces", "file", "error", "notes"),
)


def to_record(job: Job) -> dict[str, Any]:
    """JSON-able form of what the history keeps of a job; `from_record` is its inverse."""
    record = {name: getattr(job, name) for name in _KEPT}
    destination = dataclasses.asdict(job.destination)
    destination["matrix_world"] = job.destination.matrix_world.tolist()
    return record | {"placement": job.placement.to_dict(), "destination": destination}


def from_record(record: dict[str, Any]) -> Job:
    destination = dict(record["destination"])
    destination["matrix_world"] = np.array(destination["matrix_world"], float).reshape(4, 4)
    for kind in ("fields", "views"):  # without ids of a session that is over
        told = destination.get(kind, {})
        destination[kind] = {key: value for key, value in told.items() if key != "into_uid"}
    return Job(
        **{name: record[name] for name in _KEPT if name in record},
        placement=Placement.from_dict(record["placement"]),
        destination=Destination(**destination),
    )
