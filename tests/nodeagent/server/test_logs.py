"""Which instance's log is meant, what of it, and how it reaches the client."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.docker.api import LogOptions
from nodeagent.errors import EngineError, EngineNotFound, EngineUnavailable
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import PodSeen, Seen, State
from nodeagent.server.logs import LogError, LogQuery, choose, parse_query
from tests.nodeagent.server.stand import FakeParts, pod_of, running
from tests.support.poll import eventually

NOW = 1_700_000_000.0
POD = pod_of("web", "nginx", init=("setup",))
PATH = "/containerLogs/default/web/nginx"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, LogQuery(LogOptions())),
        ({"follow": "true", "tailLines": "0"}, LogQuery(LogOptions(follow=True, tail=0))),
        ({"tailLines": "20", "timestamps": "1"}, LogQuery(LogOptions(tail=20, timestamps=True))),
        ({"previous": "true", "limitBytes": "9"}, LogQuery(LogOptions(), previous=True, limit=9)),
        ({"sinceSeconds": "10"}, LogQuery(LogOptions(since="2023-11-14T22:13:10.000000Z"))),
        ({"sinceSeconds": "9" * 18}, LogQuery(LogOptions(since="1970-01-01T00:00:00.000000Z"))),
        ({"sinceTime": "2023-11-14T22:13:10.123456789+01:00"},
         LogQuery(LogOptions(since="2023-11-14T22:13:10.123456789+01:00"))),
        ({"stream": "Stderr"}, LogQuery(LogOptions(stdout=False))),
        ({"stream": "Stdout", "follow": "false"}, LogQuery(LogOptions(stderr=False))),
        ({"tailLines": "", "follow": ""}, LogQuery(LogOptions())),
    ],
)  # fmt: skip
def test_a_query_is_that_of_pod_log_options(query: dict[str, str], expected: LogQuery) -> None:
    assert parse_query(query, NOW) == expected


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ({"tailLines": "-1"}, "tailLines is '-1': use a whole number from 0"),
        ({"tailLines": "1_0"}, "tailLines"),
        ({"tailLines": "9" * 99}, "tailLines"),
        ({"limitBytes": "0"}, "limitBytes is '0': use a whole number from 1"),
        ({"sinceSeconds": "0"}, "sinceSeconds"),
        ({"sinceTime": "yesterday"}, "sinceTime is 'yesterday'"),
        ({"sinceTime": "2023-11-14T22:13:10"}, "sinceTime"),
        ({"sinceTime": "2023-11-14T22:13:10Z", "sinceSeconds": "1"}, "one of them"),
        ({"follow": "maybe"}, "follow is 'maybe': use true or false"),
        ({"stream": "both"}, "All, Stdout or Stderr"),
    ],
)
def test_a_query_without_sense_is_refused_by_name(query: dict[str, str], word: str) -> None:
    with pytest.raises(LogError) as caught:
        parse_query(query, NOW)
    assert caught.value.status == 400
    assert word in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["follow", "tailLines", "sinceSeconds", "sinceTime", "timestamps",
                         "previous", "limitBytes", "stream"]),
        st.one_of(st.text(max_size=30), st.integers().map(str), st.datetimes().map(str)),
    )
)  # fmt: skip
def test_any_query_is_understood_or_refused_by_name(query: dict[str, str]) -> None:
    try:
        found = parse_query(query, NOW)
    except LogError as error:
        assert any(name in str(error) for name in query)
    else:
        assert found.limit is None or found.limit > 0


def seen(*states: State, name: str = "nginx") -> PodSeen:
    """Instances of a container, the oldest first; the id is the attempt."""
    return PodSeen.of(
        "uid-web",
        [
            Seen(str(attempt), "uid-web", "web", "default", name, attempt, state)
            for attempt, state in enumerate(states)
        ],
    )


def waits(reason: str) -> dict[str, object]:
    """A status in which nginx waits."""
    return {"containerStatuses": [{"name": "nginx", "state": {"waiting": {"reason": reason}}}]}


@pytest.mark.parametrize(
    ("states", "status", "now", "previous"),
    [
        (("running",), {}, "0", None),
        (("exited",), {}, "0", None),
        (("exited", "running"), {}, "1", "0"),
        (("exited", "exited"), {}, "1", "0"),
        (("exited",), waits("CrashLoopBackOff"), "0", "0"),
        (("exited", "exited"), waits("CrashLoopBackOff"), "1", "1"),
        (("exited", "created"), waits("RunContainerError"), "0", "0"),
        (("exited", "running"), waits("CrashLoopBackOff"), "1", "0"),
        (("running",), waits("CrashLoopBackOff"), "0", None),
        (("running",), {"containerStatuses": None, "initContainerStatuses": []}, "0", None),
    ],
)
def test_the_instance_is_the_last_that_ran_and_previous_the_one_that_ended_before(
    states: tuple[State, ...], status: dict[str, object], now: str, previous: str | None
) -> None:
    assert choose(POD, seen(*states), "nginx", status, previous=False).id == now
    if previous is not None:
        assert choose(POD, seen(*states), "nginx", status, previous=True).id == previous
        return
    with pytest.raises(LogError) as caught:
        choose(POD, seen(*states), "nginx", status, previous=True)
    assert caught.value.status == 400
    assert 'previous terminated container "nginx" in pod "web" not found' in str(caught.value)


@pytest.mark.parametrize(
    ("states", "status", "reason"),
    [((), {}, "ContainerCreating"), (("created",), {}, "ContainerCreating"),
     ((), waits("ImagePullBackOff"), "ImagePullBackOff")],
)  # fmt: skip
def test_a_container_that_never_ran_says_what_it_waits_for(
    states: tuple[State, ...], status: dict[str, object], reason: str
) -> None:
    with pytest.raises(LogError) as caught:
        choose(POD, seen(*states), "nginx", status, previous=False)
    assert caught.value.status == 400
    wanted = f'container "nginx" in pod "web" is waiting to start: {reason}'
    assert str(caught.value) == wanted


def test_a_container_that_the_pod_does_not_have_is_not_found() -> None:
    with pytest.raises(LogError) as caught:
        choose(POD, seen("running", name="other"), "other", {}, previous=False)
    assert caught.value.status == 404


def agent(log: bytes = b"", pod: Pod = POD) -> FakeParts:
    """An agent with one pod whose container has written *log*."""
    parts = FakeParts()
    parts.add(pod)
    parts.container(pod, "nginx", log=log)
    return parts


async def test_a_log_arrives_as_it_was_written(tmp_path: Path) -> None:
    parts = agent(b"one\n")
    one = parts.engine.world.find("nginx")[0]
    parts.engine.world.write(one.id, b"caf\xc3\xa9 \xff\n", 2)
    async with running(tmp_path, parts=parts, anonymous=True, always_allow=True) as stand:
        url = f"https://127.0.0.1:{stand.server.port}{PATH}"
        async with stand.session.get(url, ssl=False) as answer:
            assert (answer.status, answer.content_type) == (200, "text/plain")
            assert await answer.read() == b"one\ncaf\xc3\xa9 \xff\n"
        assert await stand.ask(f"{PATH}?tailLines=1&stream=Stdout") == (200, "")
        assert (await stand.ask(f"{PATH}?limitBytes=5"))[1] == "one\nc"
        assert " one\n" in (await stand.ask(f"{PATH}?timestamps=true&limitBytes=40"))[1]


async def test_an_init_container_and_a_previous_instance_have_logs_too(tmp_path: Path) -> None:
    parts = agent()
    world = parts.engine.world
    world.exit(parts.container(POD, "setup", log=b"ready\n").id)
    world.exit(world.find("nginx")[0].id, 1)
    world.write(world.find("nginx")[0].id, b"crash\n")
    parts.container(POD, "nginx", 1, log=b"again\n")
    async with running(tmp_path, parts=parts, anonymous=True, always_allow=True) as stand:
        assert await stand.ask("/containerLogs/default/web/setup") == (200, "ready\n")
        assert await stand.ask(f"{PATH}?previous=true") == (200, "crash\n")
        assert await stand.ask(PATH) == (200, "again\n")


async def test_what_is_not_there_is_said_in_words(tmp_path: Path) -> None:
    parts = FakeParts()
    parts.add(POD)
    parts.waiting["uid-web", "nginx"] = "ErrImagePull"
    async with running(tmp_path, parts=parts, anonymous=True, always_allow=True) as stand:
        assert await stand.ask(PATH) == (
            400, 'container "nginx" in pod "web" is waiting to start: ErrImagePull\n',
        )  # fmt: skip
        assert (await stand.ask("/containerLogs/default/nope/nginx"))[0] == 404
        assert (await stand.ask("/containerLogs/default/web/nope"))[0] == 404
        status, text = await stand.ask(f"{PATH}?tailLines=x")
        assert (status, "tailLines" in text) == (400, True)


@pytest.mark.parametrize(
    ("error", "status"),
    [(EngineNotFound("No such container", 404), 404), (EngineUnavailable("Docker is away"), 503),
     (EngineError("32 streams of logs are open", 429), 429), (EngineError("driver", 501), 500)],
)  # fmt: skip
@pytest.mark.parametrize("follow", ["true", "false"])
async def test_dockers_faults_become_a_status_and_its_sentence(
    tmp_path: Path, error: EngineError, status: int, follow: str
) -> None:
    parts = agent(b"one\n")
    parts.engine.fail_next("logs", error)
    async with running(tmp_path, parts=parts, anonymous=True, always_allow=True) as stand:
        assert await stand.ask(f"{PATH}?follow={follow}") == (status, f"{error}\n")


class Watched:
    """How many streams of logs Docker has open."""

    def __init__(self, parts: FakeParts) -> None:
        self.open = 0
        inner = parts.engine.logs

        async def logs(
            container: str, options: LogOptions
        ) -> AsyncGenerator[tuple[int, bytes], None]:
            self.open += 1
            try:
                async for piece in inner(container, options):
                    yield piece
            finally:
                self.open -= 1

        parts.engine.logs = logs  # type: ignore[method-assign]


async def test_a_followed_log_ends_in_docker_when_its_reader_goes_away(tmp_path: Path) -> None:
    parts = agent(b"one\n")
    watched = Watched(parts)
    async with running(tmp_path, parts=parts, anonymous=True, always_allow=True) as stand:
        url = f"https://127.0.0.1:{stand.server.port}{PATH}?follow=true"
        async with stand.session.get(url, ssl=False) as answer:
            assert await answer.content.readline() == b"one\n"
            parts.engine.world.write(parts.engine.world.find("nginx")[0].id, b"two\n")
            assert await answer.content.readline() == b"two\n"
            assert watched.open == 1
        await eventually(lambda: watched.open == 0)


async def test_a_followed_log_that_says_nothing_is_begun_and_ends_with_its_reader_too(
    tmp_path: Path,
) -> None:
    parts = agent()
    watched = Watched(parts)
    async with running(tmp_path, parts=parts, anonymous=True, always_allow=True) as stand:
        url = f"https://127.0.0.1:{stand.server.port}{PATH}?follow=true"
        async with stand.session.get(url, ssl=False) as answer:
            assert answer.status == 200
            assert watched.open == 1
        await eventually(lambda: watched.open == 0)


async def test_a_followed_log_ends_with_its_container(tmp_path: Path) -> None:
    parts = agent(b"one\n")
    async with running(tmp_path, parts=parts, anonymous=True, always_allow=True) as stand:
        task = asyncio.create_task(stand.ask(f"{PATH}?follow=true"))
        await eventually(lambda: "logs" in parts.engine.calls)
        parts.engine.world.exit(parts.engine.world.find("nginx")[0].id)
        assert await task == (200, "one\n")


async def test_a_limit_ends_a_followed_log(tmp_path: Path) -> None:
    async with running(tmp_path, parts=agent(b"one\n"), anonymous=True,
                       always_allow=True) as stand:  # fmt: skip
        assert await stand.ask(f"{PATH}?follow=true&limitBytes=2") == (200, "on")


async def test_a_stop_of_the_server_ends_followed_logs(tmp_path: Path) -> None:
    parts = agent()
    watched = Watched(parts)
    async with running(tmp_path, parts=parts, anonymous=True, always_allow=True) as stand:
        task = asyncio.create_task(stand.ask(f"{PATH}?follow=true"))
        await eventually(lambda: watched.open == 1)
        await stand.server.close()
        await asyncio.gather(task, return_exceptions=True)
        assert watched.open == 0
