"""The local backend as a child of Blender; a small program takes the place of the real one."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from fieldforge.backend import environment, errors, protocol
from fieldforge.blender_addon import backend_process
from fieldforge.blender_addon.backend_process import Backend, BackendProcess, Settings

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(sys.executable)

CHILD = """
    import json, os, sys
    with open("{seen}", "w") as file:
        json.dump({{"arguments": sys.argv[1:], "variables": dict(os.environ)}}, file)
    print("warming up", flush=True)
    print("to the log", file=sys.stderr, flush=True)
    {before}
    print(json.dumps({{"url": "http://127.0.0.1:1", "version": "0.1.0", "protocol": {protocol},
                      "pid": os.getpid()}}), flush=True)
    {after}
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path):
    """Makes a folder with a `backend` that behaves as told."""

    def make(before="", after="", version=protocol.PROTOCOL_VERSION) -> Path:
        package = tmp_path / "extension folder é" / "backend"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        text = textwrap.dedent(CHILD).format(
            seen=tmp_path / "seen.json", before=before, after=after, protocol=version
        )
        (package / "__main__.py").write_text(text)
        return package.parent

    return make


@pytest.fixture
def started(monkeypatch):
    """Every process that was started, all of them ended at last."""
    made = []
    real = subprocess.Popen

    def popen(*arguments, **options):
        made.append(real(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(backend_process.subprocess, "Popen", popen)
    # The child's `backend` is the one of its own folder, not the one of this checkout.
    kept = environment.child_environment
    monkeypatch.setattr(environment, "child_environment", lambda: {**kept(), "PYTHONPATH": ""})
    yield made
    for process in made:
        if process.poll() is None:
            process.kill()
        process.wait()


def start(process: BackendProcess):
    return process.start(PYTHON, "cpu", lambda: False)


def seen(tmp_path) -> dict:
    return json.loads((tmp_path / "seen.json").read_text())


def test_it_starts_and_ends(folder, started, tmp_path):
    process = BackendProcess(folder())
    ready = start(process)
    assert (ready.url, ready.pid) == ("http://127.0.0.1:1", started[0].pid)
    assert process.running
    assert start(process) is ready  # one is enough
    assert len(started) == 1
    process.close()
    assert started[0].wait(5) == 0
    assert not process.running
    assert "to the log" in backend_process.log_file().read_text()


def test_the_token_is_no_argument(folder, started, tmp_path):
    process = BackendProcess(folder())
    ready = start(process)
    told = seen(tmp_path)
    assert len(ready.token) > 30
    assert told["variables"]["FIELDFORGE_TOKEN"] == ready.token
    assert not [argument for argument in told["arguments"] if ready.token in argument]
    assert "--exit-with-stdin" in told["arguments"]
    assert told["arguments"][told["arguments"].index("--parent-pid") + 1] == str(os.getpid())
    assert ready.token not in backend_process.log_file().read_text()
    process.close()


def test_blender_s_variables_do_not_reach_the_child(folder, started, tmp_path, monkeypatch):
    for name in ("PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONUSERBASE"):
        monkeypatch.setenv(name, "/nowhere")
    process = BackendProcess(folder())
    start(process)
    variables = seen(tmp_path)["variables"]
    assert "/nowhere" not in variables.values()
    assert variables["PYTHONNOUSERSITE"] == "1"
    assert variables["FIELDFORGE_PYTHON"] == str(PYTHON)
    process.close()


def test_one_that_ends_at_once_says_its_last_words(folder, started):
    process = BackendProcess(folder(before="sys.exit('torch is broken')"))
    with pytest.raises(errors.InternalError) as caught:
        start(process)
    assert "torch is broken" in caught.value.cause
    assert str(backend_process.log_file()) in caught.value.remedy
    process.close()


def test_another_protocol_is_refused_and_ended(folder, started):
    process = BackendProcess(folder(version=99))
    with pytest.raises(errors.VersionMismatch):
        start(process)
    started[0].wait(5)
    process.close()


def test_a_python_that_does_not_start(folder, started, tmp_path):
    process = BackendProcess(folder())
    broken = tmp_path / "python"
    broken.write_text("no program")
    with pytest.raises(errors.BadInput, match="does not start"):
        process.start(broken, "cpu", lambda: False)
    process.close()


def test_waiting_can_be_given_up(folder, started):
    process = BackendProcess(folder(before="sys.stdin.read()"))
    begun = time.monotonic()
    with pytest.raises(errors.Cancelled):
        process.start(PYTHON, "cpu", lambda: time.monotonic() > begun + 0.3)
    process.close()
    started[0].wait(5)


def test_one_that_does_not_listen_is_ended_all_the_same(folder, started, monkeypatch):
    monkeypatch.setattr(backend_process, "END_SECONDS", 0.3)
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    process = BackendProcess(folder(after=stubborn))
    start(process)
    begun = time.monotonic()
    process.stop()
    assert time.monotonic() - begun < 0.05  # the main thread does not wait for it
    started[0].wait(5)


def test_after_a_crash_it_starts_anew(folder, started):
    process = BackendProcess(folder())
    first = start(process)
    started[0].kill()
    started[0].wait()
    assert not process.running
    second = start(process)
    assert second.pid != first.pid
    assert second.token != first.token
    process.close()
    started[1].wait(5)


def test_no_orphan_when_blender_is_killed(folder, tmp_path):
    """Blender's place is taken by a Python that is killed without a chance to clean up."""
    where = folder()
    program = textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from conftest import load_extension
        load_extension()
        from pathlib import Path
        from fieldforge.backend import environment
        from fieldforge.blender_addon.backend_process import BackendProcess
        kept = environment.child_environment
        environment.child_environment = lambda: {{**kept(), "PYTHONPATH": ""}}
        ready = BackendProcess(Path({str(where)!r})).start(
            Path(sys.executable), "cpu", lambda: False)
        print(ready.pid, flush=True)
        time.sleep(60)
    """)
    blender = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    with blender:
        child = int(blender.stdout.readline())
        assert _runs(child)
        blender.send_signal(signal.SIGKILL)
        blender.wait()
    limit = time.monotonic() + 5
    while _runs(child):
        assert time.monotonic() < limit
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_which_python_a_local_backend_gets(tmp_path):
    python = backend_process.python_of(Settings(mode="PYTHON", python=str(PYTHON)))
    assert python == PYTHON.absolute()
    with pytest.raises(errors.BadInput, match="There is no Python"):
        backend_process.python_of(Settings(mode="PYTHON", python=str(tmp_path)))
    with pytest.raises(errors.Unreachable, match="not installed yet"):
        backend_process.python_of(Settings(mode="INSTALLED"))


def test_a_remote_backend_is_not_contacted_offline():
    backend = Backend(ROOT)
    settings = Settings(mode="SERVER", url="https://forge.example.org", online=False)
    with pytest.raises(errors.Unreachable, match="offline"):
        backend.connect(settings, lambda stage: None)
    backend.process.close()


def test_the_log_does_not_grow_for_ever(folder, started, monkeypatch):
    monkeypatch.setattr(backend_process, "LOG_LIMIT", 100)
    log = backend_process.log_file()
    log.parent.mkdir(parents=True)
    log.write_text("old " * 100)
    process = BackendProcess(folder())
    start(process)
    assert "old" not in log.read_text()
    assert log.with_suffix(".old.log").exists()
    process.close()
    started[0].wait(5)


# ------------------------------------------------------------------------------------- installation


def test_an_installation_reports_and_ends():
    def work(report):
        report("Downloading", 0.5, "Collecting torch")

    installation = backend_process.Installation("Installing", work).start()
    assert installation.wait(5)
    assert (installation.stage, installation.fraction) == ("Downloading", 0.5)
    assert list(installation.lines) == ["Collecting torch"]
    assert installation.error is None


def test_an_installation_can_be_cancelled():
    def work(report):
        while True:
            report("Downloading", 0.1, "")
            time.sleep(0.005)

    installation = backend_process.Installation("Installing", work).start()
    installation.cancel()
    assert installation.wait(5)
    assert isinstance(installation.error, errors.Cancelled)


@pytest.mark.parametrize("name", ["install", "repair", "remove"])
def test_the_buttons_do_what_they_say(name, monkeypatch):
    called = []
    monkeypatch.setattr(environment, "ensure", lambda kind, report: called.append(("ensure", kind)))
    monkeypatch.setattr(environment, "remove", lambda kind: called.append(("remove", kind)))
    installation = getattr(backend_process, name)()
    assert installation.wait(5)
    assert installation.error is None
    expected = {
        "install": [("ensure", "backend")],
        "repair": [("remove", "backend"), ("ensure", "backend")],
        "remove": [("remove", "backend")],
    }
    assert called == expected[name]


def test_a_failed_installation_keeps_its_reason():
    def work(report):
        raise errors.StorageFailed("The disk is too full.", "Make room.")

    installation = backend_process.Installation("Installing", work).start()
    assert installation.wait(5)
    assert str(installation.error) == "The disk is too full. Make room."
