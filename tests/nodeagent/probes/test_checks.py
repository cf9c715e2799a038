"""Single checks, against servers of this process."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import cast

import pytest

from nodeagent.docker.api import Engine
from nodeagent.pods.container import (
    Container,
    ContainerPort,
    Exec,
    HttpGet,
    HttpHeader,
    Probe,
    TcpSocket,
)
from nodeagent.probes.checks import OUTPUT, Outcome, check
from tests.nodeagent.probes.stand import FakeEngine, serving
from tests.support import certs

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def once(probe: Probe, *ports: ContainerPort, engine: FakeEngine | None = None) -> Outcome:
    container = Container(name="app", ports=ports)
    return await check(probe, container, "c1", "127.0.0.1", cast("Engine", engine or FakeEngine()))


def status(code: int, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {code} X", "Content-Length: 0", *headers, "", ""]
    return "\r\n".join(lines).encode()


# exec


async def test_a_command_that_ends_well_is_a_success() -> None:
    engine = FakeEngine()
    probe = Probe(exec=Exec(("cat", "/healthy")))
    assert await once(probe, engine=engine) == Outcome("successful")
    assert engine.asked == [("c1", "cat /healthy")]


async def test_a_command_that_fails_shows_its_output_cut() -> None:
    engine = FakeEngine()
    engine.codes["c1", "cat"] = 1
    engine.output = b"no \xff file " * 1000
    outcome = await once(Probe(exec=Exec(("cat",))), engine=engine)
    assert outcome.result == "failed"
    assert outcome.message.startswith("no � file")
    assert len(outcome.message) <= OUTPUT


async def test_a_command_that_fails_silently_shows_its_exit_code() -> None:
    engine = FakeEngine()
    engine.codes["c1", "false"] = 7
    outcome = await once(Probe(exec=Exec(("false",))), engine=engine)
    assert outcome == Outcome("failed", "the command ended with exit code 7")


async def test_a_command_that_takes_too_long_has_failed() -> None:
    engine = FakeEngine()
    engine.hangs = True
    outcome = await once(Probe(exec=Exec(("sleep", "60")), timeout_seconds=0), engine=engine)
    assert outcome == Outcome("failed", "command sleep 60 did not end within 1 s")


async def test_docker_that_does_not_answer_says_nothing_of_the_container() -> None:
    engine = FakeEngine()
    engine.down = True
    outcome = await once(Probe(exec=Exec(("true",))), engine=engine)
    assert outcome == Outcome("unknown", "Docker does not answer")


@pytest.mark.parametrize(
    ("probe", "wrong"),
    [
        (Probe(), "none of exec"),
        (Probe(exec=Exec()), "exec.command is empty"),
        (Probe(http_get=HttpGet("web")), "httpGet.port: container app has no port named 'web'"),
        (Probe(http_get=HttpGet(0)), "httpGet.port: 0 is not between"),
        (Probe(tcp_socket=TcpSocket("70000")), "tcpSocket.port: 70000 is not between"),
        (Probe(http_get=HttpGet(80, scheme="FTP")), "httpGet.scheme: 'FTP' must be"),
        (Probe(http_get=HttpGet(80, host="a\r\nb")), "httpGet.host"),
        (
            Probe(http_get=HttpGet(80, http_headers=(HttpHeader("X", "1\r\nY: 2"),))),
            "httpGet.httpHeaders: 'X' has characters",
        ),
    ],
)
async def test_a_check_that_cannot_be_made_is_unknown_and_named(probe: Probe, wrong: str) -> None:
    outcome = await once(probe)
    assert outcome.result == "unknown"
    assert wrong in outcome.message


async def test_a_pod_without_an_address_cannot_be_checked_yet() -> None:
    probe = Probe(http_get=HttpGet(80))
    outcome = await check(probe, Container(name="app"), "c1", "", cast("Engine", FakeEngine()))
    assert outcome == Outcome("unknown", "httpGet.the pod has no address yet")


# HTTP


@pytest.mark.parametrize("hold", [False, True])
async def test_an_answer_of_200_is_a_success_whether_or_not_the_server_hangs_up(
    hold: bool,
) -> None:
    async with serving(lambda _: OK, hold=hold) as (port, requests):
        assert await once(Probe(http_get=HttpGet(port, "/health?deep=1"))) == Outcome("successful")
    lines = requests[0].decode().split("\r\n")
    assert lines[0] == "GET /health?deep=1 HTTP/1.1"
    assert f"Host: 127.0.0.1:{port}" in lines
    assert "User-Agent: kube-probe/barenode" in lines
    assert "Accept: */*" in lines
    assert "Connection: close" in lines


async def test_headers_of_the_probe_are_sent_and_may_replace_ours() -> None:
    headers = (
        HttpHeader("host", "shop.example"),
        HttpHeader("User-Agent", ""),
        HttpHeader("accept", "text/plain"),
        HttpHeader("Connection", "keep-alive"),
        HttpHeader("X-One", "1"),
        HttpHeader("X-One", "2"),
    )
    async with serving(lambda _: OK) as (port, requests):
        await once(Probe(http_get=HttpGet(port, http_headers=headers)))
    lines = requests[0].decode().split("\r\n")[1:]
    assert sorted(line for line in lines if line) == [
        "Connection: close", "X-One: 1", "X-One: 2", "accept: text/plain", "host: shop.example",
    ]  # fmt: skip


async def test_a_named_port_is_that_of_the_container() -> None:
    async with serving(lambda _: OK) as (port, requests):
        named = ContainerPort(port, name="web")
        assert await once(Probe(http_get=HttpGet("web")), named) == Outcome("successful")
        assert await once(Probe(tcp_socket=TcpSocket("web")), named) == Outcome("successful")
        assert await once(Probe(tcp_socket=TcpSocket(str(port)))) == Outcome("successful")
    assert requests


@pytest.mark.parametrize("code", [400, 404, 500, 503])
async def test_an_answer_from_400_on_is_a_failure(code: int) -> None:
    async with serving(lambda _: status(code)) as (port, _):
        outcome = await once(Probe(http_get=HttpGet(port)))
    assert outcome == Outcome("failed", f"HTTP probe failed with statuscode: {code}")


async def test_a_path_cannot_smuggle_a_request() -> None:
    async with serving(lambda _: OK) as (port, requests):
        await once(Probe(http_get=HttpGet(port, "a b\r\nX: y/%20ü#part")))
    assert requests[0].startswith(b"GET /a%20b%0D%0AX:%20y/%20%C3%BC HTTP/1.1\r\n")


@pytest.mark.parametrize("absolute", [False, True])
async def test_a_redirect_on_the_same_host_is_followed(absolute: bool) -> None:
    goal: list[str] = []

    def answer(head: bytes) -> bytes:
        return status(302, f"Location: {goal[0]}") if head.startswith(b"GET / ") else status(500)

    async with serving(answer) as (port, requests):
        goal.append(f"http://127.0.0.1:{port}/in?x=1" if absolute else "/in?x=1")
        host = (HttpHeader("Host", "shop.example"),)
        outcome = await once(Probe(http_get=HttpGet(port, http_headers=host)))
    assert outcome.message == "HTTP probe failed with statuscode: 500"
    assert requests[1].startswith(b"GET /in?x=1 ")
    wanted = f"Host: 127.0.0.1:{port}" if absolute else "Host: shop.example"
    assert wanted.encode() in requests[1]


@pytest.mark.parametrize("goal", ["http://elsewhere.example/", "ftp://127.0.0.1/", "//[bad/"])
async def test_a_redirect_to_another_host_is_a_success_with_a_warning(goal: str) -> None:
    async with serving(lambda _: status(301, f"Location: {goal}")) as (port, requests):
        outcome = await once(Probe(http_get=HttpGet(port)))
    assert (outcome.result, outcome.warning) == ("successful", True)
    assert goal in outcome.message
    assert len(requests) == 1


async def test_endless_redirects_are_a_failure() -> None:
    async with serving(lambda _: status(307, "Location: /")) as (port, requests):
        outcome = await once(Probe(http_get=HttpGet(port)))
    assert outcome.result == "failed"
    assert "more than 10 times" in outcome.message
    assert len(requests) == 11


async def test_https_is_not_verified(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = certs.Authority(tmp_path).issue("somebody.example")
    context.load_cert_chain(pair.cert, pair.key)
    async with serving(lambda _: OK, ssl=context) as (port, _):
        assert await once(Probe(http_get=HttpGet(port, scheme="HTTPS"))) == Outcome("successful")
        plain = await once(Probe(http_get=HttpGet(port)))
    assert plain.result == "failed"


async def test_tls_to_a_server_without_it_is_a_failure_in_words() -> None:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        outcome = await once(Probe(http_get=HttpGet(port, scheme="HTTPS")))
    assert outcome.result == "failed"
    assert outcome.message.startswith(f"GET https://127.0.0.1:{port}/: ")


async def test_a_server_that_hangs_up_has_failed() -> None:
    async with serving(lambda _: b"") as (port, _):
        outcome = await once(Probe(http_get=HttpGet(port)))
    assert outcome == Outcome(
        "failed", f"GET http://127.0.0.1:{port}/: the connection was closed unanswered"
    )


async def test_a_server_that_never_answers_fails_after_the_timeout() -> None:
    async with serving(lambda _: b"", hold=True) as (port, _):
        outcome = await once(Probe(http_get=HttpGet(port), timeout_seconds=1))
    assert outcome == Outcome("failed", f"GET http://127.0.0.1:{port}/: no answer within 1 s")


async def test_a_closed_port_is_a_refused_connection() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        http = await once(Probe(http_get=HttpGet(port)))
        tcp = await once(Probe(tcp_socket=TcpSocket(port)))
    assert http == Outcome("failed", f"GET http://127.0.0.1:{port}/: connection refused")
    assert tcp == Outcome("failed", f"TCP connection to port {port}: connection refused")


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serving(lambda _: OK) as (port, _):
        assert await once(Probe(http_get=HttpGet(port))) == Outcome("successful")


async def test_an_open_port_is_a_success_for_tcp_and_is_closed_again() -> None:
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b""
        writer.close()
        closed.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await once(Probe(tcp_socket=TcpSocket(port))) == Outcome("successful")
        await closed.wait()
