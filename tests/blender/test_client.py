import threading
import time

import numpy as np
import pytest
from fake_backend import TOKEN, FakeBackend
from fieldforge.backend import errors, protocol
from fieldforge.blender_addon.client import Client, check_url, is_loopback


@pytest.fixture
def fake():
    backend = FakeBackend()
    yield backend
    backend.close()


@pytest.fixture
def client(fake):
    return Client(fake.url, TOKEN)


def _task(count=80, **options):
    points = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    return protocol.PointsToMesh(name="Scan", points=points, **options)


def test_a_job_from_task_to_result(client, fake):
    task = _task()
    record = client.submit(protocol.encode_task(task))
    states = [seen["state"] for seen in client.follow(record["id"])]
    assert states[-1] == "done"
    result = protocol.decode_result(client.result(record["id"]))
    assert np.array_equal(result.vertices, task.points)
    assert client.task(record["id"]) == protocol.encode_task(task)
    client.delete(record["id"])
    assert client.jobs() == []
    client.delete(record["id"])  # gone already: fine


def test_dropped_events_fall_back_to_asking(client, fake):
    fake.drop_events = True
    fake.hold.clear()
    record = client.submit(protocol.encode_task(_task()))
    threading.Timer(0.7, fake.hold.set).start()
    states = [seen["state"] for seen in client.follow(record["id"])]
    assert states[-1] == "done"
    assert "running" in states


def test_a_slow_line_may_take_its_time_for_a_large_cloud(client, fake, monkeypatch):
    monkeypatch.setattr("fieldforge.blender_addon.client.CONNECT_SECONDS", 0.5)
    fake.read_pause = 0.05
    begun = time.monotonic()
    assert client.submit(protocol.encode_task(_task(2_000_000)))["state"] in {"queued", "running"}
    assert time.monotonic() - begun > 1.0


def test_the_wrong_token_is_told(fake):
    client = Client(fake.url, "wrong")
    assert client.health()["name"] == "fieldforge"
    with pytest.raises(errors.NotAuthorized) as caught:
        client.models()
    assert caught.value.remedy


def test_no_proxy_stands_between_a_computer_and_itself(client, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert client.health()["name"] == "fieldforge"


def test_another_version_is_told(client, fake):
    fake.version = 99
    with pytest.raises(errors.VersionMismatch) as caught:
        client.health()
    assert "99" in caught.value.cause
    assert "same version" in caught.value.remedy


def test_something_else_at_the_address(client, fake):
    fake.name = "printer"
    with pytest.raises(errors.BadInput, match="not a Fieldforge backend"):
        client.health()


def test_a_backend_that_is_gone_is_told_in_time(client, fake):
    fake.hold.clear()
    record = client.submit(protocol.encode_task(_task()))
    followed = client.follow(record["id"], patience=1.0)
    assert next(followed)["state"] in {"queued", "running"}
    fake.vanish()
    begun = time.monotonic()
    with pytest.raises(errors.Unreachable) as caught:
        list(followed)
    assert time.monotonic() - begun < 4
    assert "Fetch Again" in caught.value.remedy


def test_a_local_backend_that_has_ended_is_told_at_once(client, fake):
    fake.vanish()
    begun = time.monotonic()
    with pytest.raises(errors.Unreachable, match="has ended"):
        list(client.follow("job1", alive=lambda: False, patience=60))
    assert time.monotonic() - begun < 2


def test_nobody_listens(fake):
    fake.vanish()
    with pytest.raises(errors.Unreachable) as caught:
        Client(fake.url, TOKEN).health()
    assert "Test Connection" in caught.value.remedy


def test_the_token_is_in_no_text(client):
    assert TOKEN not in repr(client)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:80", True),
        ("http://127.3.2.1", True),
        ("http://localhost:1", True),
        ("http://[::1]:5", True),
        ("http://192.168.1.4", False),
        ("https://localhost.example.org", False),
        ("http://127.0.0.1.example.org", False),
        ("http://0.0.0.0", False),
        ("", False),
    ],
)
def test_what_loopback_is(url, expected):
    assert is_loopback(url) is expected


@pytest.mark.parametrize(
    "url", ["", "forge", "ftp://a", "http://", "http://a:b", "//a", "http://["]
)
def test_an_address_that_is_none(url):
    with pytest.raises(errors.BadInput) as caught:
        check_url(url, online=True)
    assert "http://127.0.0.1" in caught.value.remedy


def test_offline_only_this_computer_is_contacted():
    assert check_url("http://127.0.0.1:5/", online=False) == "http://127.0.0.1:5"
    assert check_url(" https://forge.example.org/ ", online=True) == "https://forge.example.org"
    with pytest.raises(errors.Unreachable, match="offline"):
        check_url("https://forge.example.org", online=False)
