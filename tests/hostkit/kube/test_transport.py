"""Requests and streams over several servers: rotation, deadlines, refusals, credentials."""

import asyncio
import json

import pytest

from hostkit.kube.config import KubeConfig
from hostkit.kube.connections import MAX_LINE
from hostkit.kube.errors import (
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    KubeError,
    KubeUnavailable,
    NotFound,
    ServerFault,
    ServerTimeout,
    TooManyRequests,
    Unauthorized,
    VersionTooLarge,
)
from hostkit.kube.transport import KubeClient
from tests.fakes.kube import FakeKube, Fault, Refused, Store
from tests.support.poll import eventually

PODS = "/api/v1/pods"


async def test_an_answer_comes_from_the_first_server_with_our_name_on_the_request(
    client: KubeClient, servers: list[FakeKube], store: Store
) -> None:
    store.put(PODS, "default/a")
    assert client.endpoint is None
    items = json.loads(await client.get(PODS, [("labelSelector", "a in (b,c)")]))["items"]
    assert [item["metadata"]["name"] for item in items] == ["a"]
    assert str(client.endpoint) == servers[0].url
    verb, path, query, headers = servers[0].requests[0]
    assert (verb, path, query) == ("list", PODS, {"labelSelector": "a in (b,c)"})
    assert headers["User-Agent"] == "test"
    assert not servers[1].requests


async def test_a_write_carries_body_and_content_type(
    client: KubeClient, servers: list[FakeKube], store: Store
) -> None:
    # More than 1 MiB: larger bodies take another way through the HTTP library.
    body = json.dumps({"metadata": {"name": "a"}, "spec": {"x": "y" * 2**20}}).encode()
    await client.request("POST", PODS, body=body, content_type="application/merge-patch+json")
    assert store.at(PODS, store.version)["a"]["spec"]["x"] == "y" * 2**20
    assert servers[0].requests[0][3]["Content-Type"] == "application/merge-patch+json"


@pytest.mark.parametrize("fault", ["hang", "cut", "stall-body", Refused(500), Refused(503)])
async def test_a_read_goes_to_the_next_server_when_one_fails_and_stays_there(
    impatient: KubeClient, servers: list[FakeKube], fault: Fault | Refused
) -> None:
    # Twice, because the HTTP library repeats a read by itself when its connection is cut.
    servers[0].fail("list", fault, times=2)
    await impatient.get(PODS)
    assert impatient.endpoint == servers[1].url
    assert list(impatient.endpoint_errors) == [servers[0].url]
    asked = len(servers[0].queries("list"))
    await impatient.get(PODS)
    assert len(servers[0].queries("list")) == asked
    assert len(servers[1].queries("list")) == 2


async def test_a_refused_connection_is_no_reason_not_to_write_elsewhere(
    client: KubeClient, servers: list[FakeKube], store: Store
) -> None:
    await servers[0].down()
    await client.request("POST", PODS, body=b'{"metadata": {"name": "a"}}')
    assert "a" in store.at(PODS, store.version)


@pytest.mark.parametrize("fault", ["hang", "cut"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_write_whose_answer_is_missing_is_not_repeated_but_told(
    client: KubeClient, servers: list[FakeKube], method: str, fault: Fault
) -> None:
    servers[0].fail("write", fault)
    with pytest.raises(KubeUnavailable, match="may have been applied") as caught:
        await client.request(method, PODS, body=b'{"metadata": {"name": "a"}}', deadline=0.5)
    assert caught.value.maybe_applied
    assert len(servers[0].requests) == 1
    assert not servers[1].requests


async def test_when_no_server_answers_each_cause_is_told(
    impatient: KubeClient, servers: list[FakeKube]
) -> None:
    await servers[0].down()
    servers[1].fail("list", "hang")
    with pytest.raises(KubeUnavailable) as caught:
        await impatient.get(PODS)
    assert caught.value.causes == {
        servers[0].url: "Connection refused",
        servers[1].url: "no answer within 0.5 s",
    }
    assert dict(impatient.endpoint_errors) == caught.value.causes


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ApiError),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (410, Gone),
        (422, ApiError),
    ],
)
async def test_a_refusal_is_told_in_the_servers_words_and_is_not_asked_elsewhere(
    client: KubeClient, servers: list[FakeKube], status: int, kind: type[ApiError]
) -> None:
    servers[0].fail("list", Refused(status, "Why", "no way"))
    with pytest.raises(kind) as caught:
        await client.get(PODS)
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.reason) == (status, "Why")
    assert caught.value.message.startswith("no way")
    assert f"{servers[0].url}: no way" in str(caught.value)
    assert not servers[1].requests


async def test_a_refusal_without_a_status_object_keeps_its_text(
    client: KubeClient, servers: list[FakeKube]
) -> None:
    servers[0].fail("list", Refused(404, text="404 page not found\n"))
    with pytest.raises(NotFound) as caught:
        await client.get(PODS)
    assert caught.value.message == "404 page not found"


async def test_trouble_after_a_write_is_the_callers_to_judge(
    client: KubeClient, servers: list[FakeKube]
) -> None:
    servers[0].fail("write", Refused(504, "Timeout", "request timed out"))
    with pytest.raises(ServerTimeout):
        await client.request("PUT", PODS, body=b"{}")
    assert not servers[1].requests


async def test_a_server_whose_data_lag_behind_is_told_apart_from_one_in_trouble(
    client: KubeClient, servers: list[FakeKube], store: Store
) -> None:
    servers[0].lag = 5
    with pytest.raises(VersionTooLarge) as caught:
        await client.get(PODS, [("resourceVersion", str(store.version))])
    assert caught.value.retry_after == 1


@pytest.mark.parametrize(
    ("refused", "cause"),
    [
        (Refused(302, location="https://login.example"), "points to https://login.example"),
        (
            Refused(400, text="Client sent an HTTP request to an HTTPS server.\n"),
            "it speaks TLS on this port: use https://",
        ),
    ],
)
async def test_an_answer_of_something_else_is_that_servers_fault(
    client: KubeClient, servers: list[FakeKube], refused: Refused, cause: str
) -> None:
    servers[0].fail("list", refused)
    await client.get(PODS)
    assert cause in client.endpoint_errors[servers[0].url]


class Naps:
    """A sleep that remembers how long it should have taken."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        await asyncio.sleep(0)


async def test_a_busy_server_is_waited_for_as_long_as_it_asks() -> None:
    naps = Naps()
    async with FakeKube() as server:
        client = KubeClient(KubeConfig((server.url,)), user_agent="test", sleep=naps)
        server.fail("list", Refused(429, "TooManyRequests", retry_after=3), times=2)
        await client.get(PODS)
        assert naps.taken == [3, 3]
        server.fail("list", Refused(429, "TooManyRequests", retry_after=30))
        with pytest.raises(TooManyRequests) as caught:
            await client.get(PODS)
        assert caught.value.retry_after == 30
        assert naps.taken == [3, 3]
        await client.close()


async def test_after_silence_the_next_request_takes_a_new_connection() -> None:
    async with FakeKube() as server:
        client = KubeClient(KubeConfig((server.url,)), user_agent="test", deadline=1.0)
        await asyncio.gather(*(client.get(PODS) for _ in range(3)))
        used = set(server.peers)
        server.fail("list", "hang")
        with pytest.raises(KubeUnavailable):
            await client.get(PODS)
        await client.get(PODS)
        assert server.peers[-1] not in used
        await client.close()


async def test_silence_on_one_request_does_not_end_a_stream_of_the_same_server() -> None:
    store = Store()
    async with FakeKube(store) as server:
        client = KubeClient(KubeConfig((server.url,)), user_agent="test", deadline=1.0)
        params = [("watch", "true"), ("resourceVersion", "0")]
        async with client.stream(PODS, params) as stream:
            server.fail("list", "hang")
            with pytest.raises(KubeUnavailable):
                await client.get(PODS)
            store.put(PODS, "default/a")
            lines = stream.__aiter__()
            assert b'"ADDED"' in await anext(lines)
            await lines.aclose()
        await eventually(lambda: server.watches == 0)
        await client.close()


async def test_the_first_server_is_used_again_once_it_has_answered_for_a_while(
    servers: list[FakeKube],
) -> None:
    client = KubeClient(
        KubeConfig(tuple(server.url for server in servers)),
        user_agent="test",
        probe_every=0.01,
        settle=0.05,
    )
    await servers[0].down()
    await client.get(PODS)
    assert client.endpoint == servers[1].url
    assert not client.deserted(servers[1].url)
    await servers[0].up()
    await eventually(lambda: client.deserted(servers[1].url))
    await eventually(lambda: not client.endpoint_errors)
    await client.get(PODS)
    assert client.endpoint == servers[0].url
    probes = len(servers[0].queries("version"))
    await client.get(PODS)
    assert len(servers[0].queries("version")) == probes
    await client.close()


async def test_a_probe_is_passed_by_any_answer_and_failed_by_none(
    client: KubeClient, servers: list[FakeKube]
) -> None:
    url = servers[0].url
    servers[0].fail("version", Refused(403, "Forbidden"))
    await client.probe(url, 1.0)
    servers[0].fail("version", Refused(500))
    with pytest.raises(ServerFault, match="HTTP 500"):
        await client.probe(url, 1.0)
    servers[0].pause()
    with pytest.raises(ServerFault, match=r"no answer within 0\.05 s"):
        await client.probe(url, 0.05)
    servers[0].resume()


async def test_lines_come_whole_however_they_were_cut_into_pieces(
    client: KubeClient, servers: list[FakeKube]
) -> None:
    params = [("watch", "true"), ("resourceVersion", "100")]
    long = b"x" * 3_000_000
    async with client.stream(PODS, params) as stream:
        await eventually(lambda: servers[0].watches == 1)

        async def write() -> None:
            for piece in (b"one\ntw", b"o\n", b"\n", long, b"\nthree\n"):
                await servers[0].inject(piece)
            servers[0].end_watches()

        writing = asyncio.create_task(write())
        assert [line async for line in stream] == [b"one", b"two", long, b"three"]
        await writing


@pytest.mark.parametrize("end", ["cut", "end"])
async def test_a_stream_that_ends_within_a_line_is_told_as_cut(
    client: KubeClient, servers: list[FakeKube], end: str
) -> None:
    params = [("watch", "true"), ("resourceVersion", "100")]
    async with client.stream(PODS, params) as stream:
        await eventually(lambda: servers[0].watches == 1)
        await servers[0].inject(b"one\nhalf")
        seen: list[bytes] = []
        while not seen:
            seen += await stream.read() or []
        (servers[0].cut_watches if end == "cut" else servers[0].end_watches)()
        with pytest.raises(ServerFault, match=r"connection cut|ended within a line"):
            while True:
                seen += await stream.read() or []
        assert seen == [b"one"]


async def test_a_line_without_end_is_given_up(client: KubeClient, servers: list[FakeKube]) -> None:
    params = [("watch", "true"), ("resourceVersion", "100")]
    async with client.stream(PODS, params) as stream:
        await eventually(lambda: servers[0].watches == 1)

        async def write() -> None:
            for _ in range(MAX_LINE // 2**20 + 1):
                await servers[0].inject(b"x" * 2**20)

        writing = asyncio.create_task(write())
        with pytest.raises(ServerFault, match="a line is longer than 33554432 bytes"):
            while True:
                await stream.read()
    await asyncio.gather(writing, return_exceptions=True)


async def test_a_stream_is_opened_at_the_next_server_when_one_fails(
    impatient: KubeClient, servers: list[FakeKube]
) -> None:
    servers[0].fail("watch", "hang")
    async with impatient.stream(PODS, [("watch", "true"), ("resourceVersion", "0")]) as stream:
        assert stream.endpoint == servers[1].url


async def test_what_the_user_of_a_stream_raises_comes_out_as_it_is(client: KubeClient) -> None:
    with pytest.raises(OSError, match="mine"):
        async with client.stream(PODS, [("watch", "true"), ("resourceVersion", "0")]):
            raise OSError("mine")


async def test_a_token_is_never_sent_over_http_and_the_refusal_says_so() -> None:
    async with FakeKube(tokens={"secret"}) as server:
        config = KubeConfig((server.url,), token="secret")  # noqa: S106
        client = KubeClient(config, user_agent="test")
        with pytest.raises(Unauthorized, match="credentials are not used with http://"):
            await client.get(PODS)
        assert "Authorization" not in server.requests[0][3]
        await client.close()


async def test_every_error_has_one_base(client: KubeClient, servers: list[FakeKube]) -> None:
    servers[0].fail("list", Refused(403))
    with pytest.raises(KubeError):
        await client.get(PODS)
