"""A backend on http.server that speaks the contract and does what a test tells it to.

Its "reconstruction" gives the points of the task back as vertices, so that a test knows to the
last bit where they have to lie. For voxels it gives the corners of the filled box.
"""

from __future__ import annotations

import copy
import json
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import moving_shapes
import numpy as np
import posed
import spheres
from fieldforge.backend import protocol
from fieldforge.backend.errors import FieldforgeError, NotAuthorized, NotFound

TOKEN = "secret"
CHANNELS = 16  # of the latents that its models give
MODELS = [
    {
        "id": "wavelet-fit",
        "title": "Wavelet fit",
        "summary": "",
        "tasks": ["points-to-mesh", "voxels-to-mesh"],
        "samples": False,
        "ready": True,
    },
    {
        "id": "dreamer",
        "title": "Dreamer",
        "summary": "",
        "tasks": ["points-to-mesh"],
        "samples": True,
        "ready": True,
    },
]


def mesh_of(task: protocol.Task) -> protocol.MeshResult:
    if isinstance(task, protocol.PointsToMesh):
        vertices, colors = np.array(task.points), task.colors
    elif not isinstance(task, protocol.VoxelsToMesh):
        corners = np.stack(np.meshgrid(*[[-0.9, 0.9]] * 3, indexing="ij"), axis=-1)
        vertices, colors = corners.reshape(-1, 3).astype(np.float32), None
    else:
        filled = np.argwhere(task.occupancy)
        low, high = filled.min(axis=0), filled.max(axis=0) + 1
        corners = np.array(
            [
                [x, y, z]
                for x in (low[0], high[0])
                for y in (low[1], high[1])
                for z in (low[2], high[2])
            ]
        )
        vertices = np.array(task.origin) + corners * np.array(task.voxel_size)
        vertices, colors = vertices.astype(np.float32), None
    steps = np.arange(len(vertices) - 2)
    faces = np.stack([0 * steps, steps + 1, steps + 2], axis=1).astype(np.int32)
    return protocol.MeshResult(name=task.name, vertices=vertices, faces=faces, colors=colors)


def result_of(task: protocol.Task, empty: frozenset[int] = frozenset()) -> protocol.Result:
    """What a model that samples gives has a latent, and tells its seed, steps and guidance; the
    seed is the first number of the latent. empty: seeds that give no surface."""
    if isinstance(task, protocol.DownloadModel):
        return protocol.Report(name=task.name, report={"bytes": 1})
    special = spheres.result_of(task) or posed.result_of(task) or moving_shapes.result_of(task)
    if special is not None:
        return special
    mesh = mesh_of(task)
    if task.model == "wavelet-fit":
        return mesh
    told = {"model": task.model, "steps": task.steps or 8, "guidance": task.guidance or 1.3}
    meshes = []
    for seed in range(task.seed, task.seed + task.variations):
        latent = np.full((CHANNELS, 12, 12, 12), 0.25, np.float32)
        latent.flat[0] = seed
        made = replace(mesh, latent=latent, report={**told, "seed": seed})
        meshes.append(replace(made, faces=made.faces[:0]) if seed in empty else made)
    if len(meshes) == 1:
        return meshes[0]
    return protocol.MeshSet(name=task.name, meshes=tuple(meshes), report=told)


class FakeBackend:
    """hold: jobs run until it is set; version: the protocol it claims to speak; fail: error of
    every job; empty: seeds without a surface; models: what it lists; drop_events: the events end
    after one; read_pause: seconds per megabyte received."""

    def __init__(self) -> None:
        self.hold = threading.Event()
        self.hold.set()
        self.version = protocol.PROTOCOL_VERSION
        self.name = "fieldforge"
        self.models = MODELS
        self.fail: FieldforgeError | None = None
        self.empty: set[int] = set()
        self.models = copy.deepcopy(MODELS)
        self.drop_events = False
        self.read_pause = 0.0
        self.jobs: dict[str, dict] = {}
        self.tasks: dict[str, bytes] = {}
        self.results: dict[str, bytes] = {}
        self.previews: dict[str, bytes] = {}
        self.asked: list[str] = []
        self._gone = threading.Event()
        self._server = self._listen(0)

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _listen(self, port: int) -> ThreadingHTTPServer:
        backend = self

        class Handler(_Handler):
            fake = backend

        server = _Server(("127.0.0.1", port), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def vanish(self) -> None:
        """As if the process had been killed: open connections end, new ones are refused."""
        self._gone.set()
        self._server.shutdown()
        self._server.server_close()

    def come_back(self) -> None:
        """The same jobs at the same port."""
        port = self.port
        self._gone.clear()
        self._server = self._listen(port)

    def close(self) -> None:
        self.hold.set()
        if not self._gone.is_set():
            self.vanish()

    def submit(self, body: bytes) -> dict:
        task = protocol.decode_task(body)
        job_id = f"job{len(self.tasks) + 1}"
        record = {
            "id": job_id,
            "kind": task.kind,
            "name": task.name,
            "model": task.model,
            "state": "queued",
            "stage": "",
            "fraction": 0.0,
            "created": time.time(),
            "started": None,
            "finished": None,
            "result_bytes": None,
            "error": None,
            "report": None,
            "preview": 0,
        }
        self.jobs[job_id], self.tasks[job_id] = record, body
        threading.Thread(target=self._work, args=(record, task), daemon=True).start()
        return record

    def form(self, job_id: str, size: float = 1.0, stage: str = "Sampling, step 1 of 8") -> None:
        """Show what a running job has formed: its result so far, at this size."""
        task = protocol.decode_task(self.tasks[job_id])
        if isinstance(task, protocol.TextToPanorama):
            grey = np.full((16, 32, 3), round(200 * size), np.uint8)
            seen: protocol.Result = protocol.PanoramaResult(image=grey)
        else:
            seen = self._meshes(task, size)
        self.previews[job_id] = protocol.encode_result(seen)
        record = self.jobs[job_id]
        record.update(stage=stage, preview=record["preview"] + 1)

    def _meshes(self, task: protocol.Task, size: float) -> protocol.MeshSet:
        result = result_of(task)
        meshes = [replace(m, vertices=m.vertices * size) for m in protocol.meshes_of(result)]
        return protocol.MeshSet(meshes=tuple(meshes))

    def _work(self, record: dict, task: protocol.Task) -> None:
        record.update(state="running", stage="Orienting normals", fraction=0.5)
        while not self.hold.wait(0.01):
            if record["state"] == "cancelled":
                return
        if record["state"] != "running":
            return
        if self.fail is not None:
            record.update(state="failed", preview=0, error=self.fail.to_dict())
            return
        if isinstance(task, protocol.DownloadModel):
            for model in self.models:
                model["ready"] = model.get("ready") or model["id"] == task.model
        self.results[record["id"]] = protocol.encode_result(result_of(task, frozenset(self.empty)))
        record.update(state="done", stage="", fraction=1.0, preview=0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    fake: FakeBackend

    def log_message(self, *_) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        fake, path = self.fake, self.path.removeprefix("/v1")
        fake.asked.append(f"{method} {path}")
        body = self._read_body(int(self.headers.get("Content-Length") or 0))
        try:
            if path == "/health":
                return self._json(
                    {
                        "name": fake.name,
                        "version": "0.1.0",
                        "protocol": fake.version,
                        "device": "cpu",
                        "busy": False,
                    }
                )
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise NotAuthorized("The token is wrong.", "Enter the right one.")
            match [method, *path.strip("/").split("/")]:
                case ["GET", "models"]:
                    self._json(fake.models)
                case ["POST", "jobs"]:
                    self._json(fake.submit(body), 202)
                case ["GET", "jobs"]:
                    self._json({"jobs": list(fake.jobs.values())[::-1]})
                case ["GET", "jobs", job]:
                    self._json(self._record(job))
                case ["DELETE", "jobs", job]:
                    self._record(job)["state"] = "cancelled"
                    del fake.jobs[job]
                    self.send_response(204)
                    self.end_headers()
                case ["POST", "jobs", job, "cancel"]:
                    self._record(job)["state"] = "cancelled"
                    self._json(self._record(job))
                case ["GET", "jobs", job, "result"]:
                    self._record(job)
                    self._bytes(fake.results[job])
                case ["GET", "jobs", job, "preview"]:
                    if not self._record(job)["preview"]:
                        raise NotFound("There is no preview of this job.", "Wait for the result.")
                    self._bytes(fake.previews[job])
                case ["GET", "jobs", job, "task"]:
                    self._record(job)
                    self._bytes(fake.tasks[job])
                case ["GET", "jobs", job, "events"]:
                    self._events(self._record(job))
                case _:
                    raise NotFound(f"There is no {path}.")
        except FieldforgeError as error:
            self._json({"error": error.to_dict()}, error.status)

    def _read_body(self, length: int) -> bytes:
        parts = []
        while length > 0:
            time.sleep(self.fake.read_pause)
            parts.append(self.rfile.read(min(length, 1 << 20)))
            length -= len(parts[-1])
        return b"".join(parts)

    def _record(self, job: str) -> dict:
        if job not in self.fake.jobs:
            raise NotFound("There is no such job.", "It was removed.")
        return self.fake.jobs[job]

    def _events(self, record: dict) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        last = None
        while not self.fake._gone.is_set():
            now = json.dumps(record)
            if now != last:
                last = now
                self.wfile.write(f"event: progress\ndata: {now}\n\n: keep-alive\n\n".encode())
                if self.fake.drop_events or record["state"] in ("done", "failed", "cancelled"):
                    return
            time.sleep(0.01)

    def _json(self, value, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), "application/json", status)

    def _bytes(self, body: bytes) -> None:
        self._send(body, protocol.CONTENT_TYPE, 200)

    def _send(self, body: bytes, kind: str, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
