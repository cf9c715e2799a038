"""Commands, logs, events and images of the engine, against a daemon that streams as Docker does."""

import asyncio
import base64
import json
import struct
import threading
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest

from hostkit.metrics import Metrics
from nodeagent.docker.api import LogOptions
from nodeagent.docker.engine import MOST_STREAMS, DockerEngine
from nodeagent.errors import EngineConflict, EngineError, EngineNotFound, EngineUnavailable
from tests.fakes.dockerd import Answer, Dockerd, Request
from tests.nodeagent.docker.test_labels import document
from tests.support.poll import eventually

C = "ab" * 32


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(data)) + data


def no_thread(name: str) -> bool:
    return all(one.name != name for one in threading.enumerate())


def commands(dockerd: Dockerd, output: Iterator[bytes], code: int | None = 0) -> None:
    """Have an exec with that output."""
    dockerd.answers[f"POST /containers/{C}/exec"] = Answer(201, {"Id": "e1"})
    dockerd.answers["POST /exec/e1/start"] = Answer(200, output, raw=True)
    state: dict[str, Any] = {"Running": False, "ExitCode": code, "Pid": 0}
    dockerd.answers["GET /exec/e1/json"] = Answer(200, state)


async def test_a_command_has_its_output_and_code(dockerd: Dockerd, engine: DockerEngine) -> None:
    commands(dockerd, iter([frame(1, b"out "), frame(2, b"err")]), 3)
    result = await engine.exec(C, ["sh", "-c", "x"], timeout=10)
    assert (result.code, result.output) == (3, b"out err")
    asked = json.loads(next(r for r in dockerd.requests if r.path.endswith("/exec")).body)
    assert asked["Cmd"] == ["sh", "-c", "x"]


async def test_output_is_cut_at_the_limit(dockerd: Dockerd, engine: DockerEngine) -> None:
    commands(dockerd, iter([frame(1, b"x" * 5000)] * 4))
    assert (await engine.exec(C, ["x"], timeout=10, limit=7000)).output == b"x" * 7000


async def test_a_command_that_takes_too_long_is_let_go(
    dockerd: Dockerd, engine: DockerEngine
) -> None:
    gate = threading.Event()

    def output() -> Iterator[bytes]:
        yield frame(1, b"begun")
        gate.wait()

    commands(dockerd, output())
    with pytest.raises(TimeoutError):
        await engine.exec(C, ["sleep"], timeout=2.0)
    await eventually(lambda: no_thread("docker-kill-exec"))
    assert dockerd.paths[-1] == "GET /exec/e1/json"
    gate.set()


async def test_a_command_in_a_dead_container_is_a_conflict(
    dockerd: Dockerd, engine: DockerEngine
) -> None:
    answer = Answer(409, {"message": f"Container {C} is not running"})
    dockerd.answers[f"POST /containers/{C}/exec"] = answer
    with pytest.raises(EngineConflict):
        await engine.exec(C, ["x"], timeout=5)


# --- streams ---


async def test_logs_come_with_their_stream(dockerd: Dockerd, engine: DockerEngine) -> None:
    dockerd.answers[f"GET /containers/{C}/json"] = Answer(body=document())
    data = frame(1, b"one\n") + frame(2, b"two\n")
    pieces = iter([data[:5], data[5:14], data[14:]])
    dockerd.answers[f"GET /containers/{C}/logs"] = Answer(body=pieces)
    options = LogOptions(tail=5, since="1970-01-01T00:00:10Z", timestamps=True)
    async with aclosing(engine.logs(C, options)) as logs:
        found = [piece async for piece in logs]
    assert b"".join(d for s, d in found if s == 1) == b"one\n"
    assert b"".join(d for s, d in found if s == 2) == b"two\n"
    assert dockerd.requests[-1].query == {
        "stdout": "1", "stderr": "1", "follow": "0", "timestamps": "1", "tail": "5",
        "since": "10.000000000",
    }  # fmt: skip


async def test_logs_of_a_missing_container_are_not_found(
    dockerd: Dockerd, engine: DockerEngine
) -> None:
    async with aclosing(engine.logs(C, LogOptions())) as logs:
        with pytest.raises(EngineNotFound):
            await anext(logs)


async def test_a_bad_time_is_named(dockerd: Dockerd, engine: DockerEngine) -> None:
    async with aclosing(engine.logs(C, LogOptions(since="soon"))) as logs:
        with pytest.raises(EngineError, match="sinceTime 'soon'"):
            await anext(logs)


async def test_followed_logs_are_bounded_and_end_when_closed(
    dockerd: Dockerd, engine: DockerEngine
) -> None:
    gate = threading.Event()

    def endless(_: Request) -> Answer:
        def pieces() -> Iterator[bytes]:
            yield frame(1, b"x")
            gate.wait()

        return Answer(body=pieces())

    dockerd.answers[f"GET /containers/{C}/json"] = Answer(body=document())
    dockerd.answers[f"GET /containers/{C}/logs"] = endless
    streams = [engine.logs(C, LogOptions(follow=True)) for _ in range(MOST_STREAMS)]
    for one in streams:
        assert await anext(one) == (1, b"x")
    with pytest.raises(EngineError, match="32 streams") as raised:
        await anext(engine.logs(C, LogOptions(follow=True)))
    assert raised.value.status == 429
    for one in streams:
        await one.aclose()
    await eventually(lambda: no_thread("docker-logs"))
    gate.set()


async def test_events_are_heard_until_the_stream_breaks(
    dockerd: Dockerd, engine: DockerEngine
) -> None:
    event = {"Action": "die", "Actor": {"ID": C, "Attributes": {"a": "b"}}}
    dockerd.answers["GET /events"] = Answer(body=iter([json.dumps(event).encode() + b"\n"]))
    async with aclosing(engine.events()) as events:
        found = await anext(events)
        assert (found.action, found.id) == ("die", C)
        with pytest.raises(EngineUnavailable):
            await anext(events)
    filters = json.loads(dockerd.requests[-1].query["filters"])
    assert filters["label"] == ["barenode.nodeagent=1"]


async def test_closing_ends_streams(dockerd: Dockerd, engine: DockerEngine) -> None:
    gate = threading.Event()

    def silent() -> Iterator[bytes]:
        gate.wait()
        yield b""

    dockerd.answers["GET /events"] = Answer(body=silent())
    events = engine.events()
    task = asyncio.ensure_future(anext(events))
    await eventually(lambda: "GET /events" in dockerd.paths)
    await engine.close()
    with pytest.raises(EngineUnavailable):
        await task
    gate.set()


# --- images ---


async def test_an_image_that_is_not_here_is_none(dockerd: Dockerd, engine: DockerEngine) -> None:
    assert await engine.image("nginx:1") is None
    found = {"Id": "sha256:beef" + "0" * 60, "RepoTags": ["nginx:1"], "Size": 5}
    dockerd.answers["GET /images/nginx:1/json"] = Answer(body=found)
    dockerd.answers["GET /images/beef/json"] = Answer(body=found)
    image = await engine.image("nginx:1")
    assert image is not None
    assert image.size == 5
    assert await engine.image("beef") is None


async def test_a_pull_names_tag_and_credentials(dockerd: Dockerd, engine: DockerEngine) -> None:
    dockerd.answers["POST /images/create"] = Answer(body=iter([b'{"status":"Downloaded"}\n']))
    await engine.pull("reg:5000/a", {"username": "u", "password": "p\u00fc"}, lambda _: None)
    request = dockerd.requests[-1]
    assert request.query == {"fromImage": "reg:5000/a", "tag": "latest"}
    auth = json.loads(base64.urlsafe_b64decode(request.headers["X-Registry-Auth"]))
    assert auth == {"username": "u", "password": "p\u00fc"}


async def test_a_pull_without_credentials_sends_none(
    dockerd: Dockerd, engine: DockerEngine
) -> None:
    dockerd.answers["POST /images/create"] = Answer(body=iter([b""]))
    await engine.pull("nginx@sha256:" + "0" * 64, None, lambda _: None)
    request = dockerd.requests[-1]
    assert "X-Registry-Auth" not in request.headers
    assert request.query == {"fromImage": "docker.io/library/nginx", "tag": "sha256:" + "0" * 64}


async def test_a_pull_tells_progress_and_its_failure(dockerd: Dockerd) -> None:
    ticks = iter(range(0, 1000, 2))
    engine = DockerEngine(dockerd.url, metrics=Metrics("kubelet"), clock=lambda: next(ticks))
    documents: list[dict[str, Any]] = [
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 10**6, "total": 10**6}},
        {"errorDetail": {"message": "no space left on device"}, "error": "x"},
    ]
    lines = [json.dumps(one).encode() + b"\r\n" for one in documents]
    dockerd.answers["POST /images/create"] = Answer(body=iter(lines))
    told: list[str] = []
    with pytest.raises(EngineError, match="no space left"):
        await engine.pull("nginx", None, told.append)
    assert told == ["0 of 1 layers, 1.0 of 1.0 MB"]
    await engine.close()


async def test_a_cancelled_pull_is_let_go(dockerd: Dockerd, engine: DockerEngine) -> None:
    gate = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b'{"status":"Pulling"}\n'
        gate.wait()

    dockerd.answers["POST /images/create"] = Answer(body=pieces())
    task = asyncio.create_task(engine.pull("nginx", None, lambda _: None))
    await eventually(lambda: "POST /images/create" in dockerd.paths)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()


async def test_an_image_goes_with_all_its_names(dockerd: Dockerd, engine: DockerEngine) -> None:
    found = {"Id": "sha256:1", "RepoTags": ["a:1", "b:1"]}
    dockerd.answers["GET /images/sha256:1/json"] = Answer(body=found)
    dockerd.answers["GET /containers/json"] = Answer(body=[])
    for one in ("a:1", "b:1"):
        dockerd.answers[f"DELETE /images/{one}"] = Answer(body=[])
    await engine.remove_image("sha256:1")
    assert [p for p in dockerd.paths if p.startswith("DELETE")] == [
        "DELETE /images/a:1", "DELETE /images/b:1", "DELETE /images/sha256:1",
    ]  # fmt: skip


async def test_an_image_of_any_container_keeps_its_names(
    dockerd: Dockerd, engine: DockerEngine
) -> None:
    found = {"Id": "sha256:1", "RepoTags": ["a:1", "b:1"]}
    dockerd.answers["GET /images/sha256:1/json"] = Answer(body=found)
    dockerd.answers["GET /containers/json"] = Answer(body=[{"Id": C}])
    with pytest.raises(EngineConflict, match="in use"):
        await engine.remove_image("sha256:1")
    assert not any(p.startswith("DELETE") for p in dockerd.paths)


async def test_an_archive_that_docker_cannot_load_is_told(
    dockerd: Dockerd, engine: DockerEngine
) -> None:
    dockerd.answers["POST /images/load"] = Answer(body={"stream": "Loaded"})
    await engine.load_image(b"tar")
    assert dockerd.requests[-1].body == b"tar"
    dockerd.answers["POST /images/load"] = Answer(body={"error": "unexpected EOF"})
    with pytest.raises(EngineError, match="unexpected EOF"):
        await engine.load_image(b"tar")


@pytest.mark.parametrize(("api", "one_shot"), [("1.41", "True"), ("1.38", None)])
async def test_stats_are_one_reading(dockerd: Dockerd, api: str, one_shot: str | None) -> None:
    dockerd.api = api
    engine = DockerEngine(dockerd.url, metrics=Metrics("kubelet"))
    dockerd.answers[f"GET /containers/{C}/stats"] = Answer(body={"read": "x"})
    assert await engine.stats(C) == {"read": "x"}
    query = dockerd.requests[-1].query
    assert (query["stream"], query.get("one-shot")) == ("False", one_shot)
    await engine.close()
