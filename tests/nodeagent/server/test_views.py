"""The endpoints: pods, commands, health, what is not served, and who gets which of them."""

import asyncio
import json
import socket
from pathlib import Path

import pytest

from hostkit.command import SubprocessRunner
from hostkit.problems import Problems
from nodeagent.docker.api import ExecResult
from nodeagent.errors import EngineConflict, EngineUnavailable
from nodeagent.server.parts import ServerSettings, server_settings
from nodeagent.server.server import KubeletServer
from nodeagent.server.views import COMMANDS
from tests.nodeagent.server.stand import FakeParts, pod_of, running
from tests.nodeagent.test_config import read
from tests.support.etcd import free_ports
from tests.support.poll import eventually

RUN = "/run/default/web/nginx"


def agent() -> FakeParts:
    """An agent with a running pod and one that has not begun."""
    parts = FakeParts()
    pod = pod_of("web", "nginx")
    parts.add(pod)
    parts.add(pod_of("later", "nginx"))
    parts.container(pod, "POD")
    parts.container(pod, "nginx")
    return parts


async def test_pods_are_listed_with_their_status_and_running_ones_by_what_runs(
    tmp_path: Path,
) -> None:
    parts = agent()
    async with running(tmp_path, parts=parts, anonymous=True, always_allow=True) as stand:
        for path in ("/pods", "/pods/"):
            status, text = await stand.ask(path)
            found = json.loads(text)
            assert (status, found["kind"], found["apiVersion"]) == (200, "PodList", "v1")
            assert found["items"] == parts.pods()
        for path in ("/runningpods", "/runningpods/"):
            (one,) = json.loads((await stand.ask(path))[1])["items"]
            assert one["metadata"] == {"name": "web", "namespace": "default", "uid": "uid-web"}
            containers = one["spec"]["containers"]
            assert [(c["name"], c["image"]) for c in containers] == [("nginx", "nginx:1")]


async def test_health_names_what_hangs(tmp_path: Path) -> None:
    parts = agent()
    async with running(tmp_path, parts=parts, anonymous=True, always_allow=True) as stand:
        assert await stand.ask("/healthz") == (200, "ok")
        parts.sick = ["the main loop has not moved for 30 s"]
        assert await stand.ask("/healthz") == (500, parts.sick[0])


async def test_a_command_runs_in_the_container_and_its_output_comes_back(tmp_path: Path) -> None:
    parts = agent()
    seen: list[tuple[str, ...]] = []

    def program(_container: object, argv: tuple[str, ...]) -> ExecResult:
        seen.append(argv)
        return ExecResult(0, b"out\n")

    parts.engine.world.commands["nginx"] = program
    async with running(tmp_path, parts=parts, anonymous=True, always_allow=True) as stand:
        for query in ("cmd=ls+-l+%27a+b%27", "cmd=ls&cmd=-l&cmd=a+b"):
            assert await stand.ask(f"{RUN}?{query}", method="POST") == (200, "out\n")
        uid = "/run/default/web/uid-web/nginx?cmd=id"
        assert (await stand.ask(uid, method="POST"))[0] == 200
        assert seen == [("ls", "-l", "a b"), ("ls", "-l", "a b"), ("id",)]
        parts.engine.world.commands["nginx"] = ExecResult(3, b"oh\n")
        assert await stand.ask(f"{RUN}?cmd=false", method="POST") == (
            500, "oh\n\ncommand terminated with exit code 3\n",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        (f"{RUN}", 400, "cmd is missing"),
        (f"{RUN}?cmd=", 400, "cmd is missing"),
        (f"{RUN}?cmd=%27a", 400, "cannot be split"),
        (f"{RUN}?cmd=a%00b", 400, "zero byte"),
        (f"{RUN}?cmd={'a' * 5000}", 200, ""),
        ("/run/default/nope/nginx?cmd=id", 404, 'pod "nope"'),
        ("/run/default/later/nginx?cmd=id", 404, "does not run"),
        ("/run/default/web/other/nginx?cmd=id", 404, "another UID"),
    ],
)
async def test_a_command_that_cannot_run_says_why(
    tmp_path: Path, path: str, status: int, word: str
) -> None:
    async with running(tmp_path, parts=agent(), anonymous=True, always_allow=True) as stand:
        found, text = await stand.ask(path, method="POST")
        assert (found, word in text) == (status, True)
        assert (await stand.ask(path))[0] == 405


async def test_a_command_that_docker_refuses_or_that_never_ends_is_an_answer_too(
    tmp_path: Path,
) -> None:
    parts = agent()
    async with running(tmp_path, parts=parts, anonymous=True, always_allow=True) as stand:
        parts.engine.fail_next("exec", EngineConflict("it is paused", 409))
        assert await stand.ask(f"{RUN}?cmd=id", method="POST") == (409, "it is paused\n")
        parts.engine.fail_next("exec", EngineUnavailable("Docker is away"))
        assert await stand.ask(f"{RUN}?cmd=id", method="POST") == (503, "Docker is away\n")
        parts.engine.fail_next("exec", TimeoutError())
        assert (await stand.ask(f"{RUN}?cmd=id", method="POST"))[0] == 504


async def test_commands_at_once_are_bounded_since_probes_share_their_way(tmp_path: Path) -> None:
    parts = agent()
    parts.engine.hang("exec")
    async with running(tmp_path, parts=parts, anonymous=True, always_allow=True) as stand:
        ask = [stand.ask(f"{RUN}?cmd=id", method="POST") for _ in range(COMMANDS)]
        tasks = [asyncio.create_task(one) for one in ask]
        await eventually(lambda: parts.engine.calls.count("exec") == COMMANDS)
        assert (await stand.ask(f"{RUN}?cmd=id", method="POST"))[0] == 429
        parts.engine.release("exec")
        assert {status for status, _ in await asyncio.gather(*tasks)} == {200}
        assert (await stand.ask(f"{RUN}?cmd=id", method="POST"))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "word"),
    [
        # As a Status: kubectl takes some plain texts for an object of another form.
        ("POST", "/exec/default/web/nginx?command=id", 501, '"message": "this node serves no exec'),
        ("GET", "/attach/default/web/nginx", 501, '"kind": "Status"'),
        ("POST", "/portForward/default/web", 501, "port-forward"),
        ("GET", "/logs/syslog", 403, "not served"),
        ("GET", "/logs", 403, "not served"),
        ("GET", "/", 404, ""),
        ("GET", "/configz", 404, ""),
        ("DELETE", "/pods", 405, ""),
    ],
)
async def test_what_is_not_served_is_refused_in_words(
    tmp_path: Path, method: str, path: str, status: int, word: str
) -> None:
    async with running(tmp_path, parts=agent(), anonymous=True, always_allow=True) as stand:
        found, text = await stand.ask(path, method=method)
        assert (found, word in text) == (status, True)


async def test_without_debugging_handlers_there_are_neither_logs_nor_commands(
    tmp_path: Path,
) -> None:
    async with running(
        tmp_path, parts=agent(), anonymous=True, always_allow=True, debugging=False
    ) as stand:
        for path in ("/containerLogs/default/web/nginx", "/logs/x", "/exec/a/b/c"):
            assert (await stand.ask(path))[0] == 404
        assert (await stand.ask(f"{RUN}?cmd=id", method="POST"))[0] == 404
        assert (await stand.ask("/pods"))[0] == 200


async def test_the_read_only_port_has_figures_and_pods_and_nothing_else(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with running(tmp_path, parts=agent(), read_only_port=port) as stand:
        assert stand.server.read_only_port == port
        for path in ("/healthz", "/pods", "/runningpods/", "/stats/summary", "/metrics",
                     "/metrics/cadvisor", "/metrics/resource", "/spec"):  # fmt: skip
            assert (await stand.ask(path, port=port))[0] == 200, path
            assert (await stand.ask(path))[0] == 401, path
        for path in ("/containerLogs/default/web/nginx", "/logs/", "/exec/a/b/c"):
            assert (await stand.ask(path, port=port))[0] == 404, path
        assert (await stand.ask(f"{RUN}?cmd=id", method="POST", port=port))[0] == 404
        spec = json.loads((await stand.ask("/spec", port=port))[1])
        assert spec["num_cores"] > 0
        assert spec["memory_capacity"] > 0


async def test_the_read_only_port_is_on_this_host_only(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with running(tmp_path, read_only_port=port, address="0.0.0.0"):
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # 127.0.0.2 would be taken, too, if it listened on all addresses.
            other.bind(("127.0.0.2", port))


async def test_a_port_in_use_is_a_named_problem_and_opened_when_it_is_free(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (other,) = free_ports(1)
        ports = {"port": port, "read_only_port": other}
        async with running(tmp_path, **ports, anonymous=True, always_allow=True) as stand:
            assert stand.server.port is None
            (problem,) = stand.problems.all()
            assert problem.key == "server"
            assert f"cannot listen on 127.0.0.1:{port}" in problem.text
            assert (await stand.ask("/healthz", port=other))[0] == 200
            taken.close()
            await stand.server.look()
            assert stand.problems.all() == ()
            assert (await stand.ask("/healthz"))[0] == 200


async def test_a_server_that_is_switched_off_opens_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, enabled=False) as stand:
        assert (stand.server.port, stand.server.read_only_port) == (None, None)
        assert not (tmp_path / "pki").exists()


async def test_a_large_body_and_long_headers_do_no_harm(tmp_path: Path) -> None:
    async with running(tmp_path, parts=agent(), anonymous=True, always_allow=True) as stand:
        url = f"https://127.0.0.1:{stand.server.port}{RUN}?cmd=id"
        async with stand.session.post(url, ssl=False, data=b"x" * (1 << 20)) as answer:
            assert answer.status == 200
        header = {"X-Long": "y" * 20_000}
        async with stand.session.get(url, ssl=False, headers=header) as answer:
            assert answer.status == 400
        assert (await stand.ask("/healthz"))[0] == 200


def test_settings_become_the_servers() -> None:
    found = server_settings(
        read("--root-dir=/r", "--port=1", "--address=127.0.0.1", "--tls-min-version=VersionTLS13")
    )
    assert found == ServerSettings(
        cert_dir=Path("/r/pki"), root_dir=Path("/r"), port=1, read_only_port=10255, tls13_only=True
    )
    off = server_settings(read("--enable-server=false"))
    assert (off.enabled, off.read_only_port) == (False, 0)


async def test_the_server_looks_again_and_again_and_closes_when_it_is_cancelled(
    tmp_path: Path,
) -> None:
    looks = 0

    async def sleep(_seconds: float) -> None:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0)

    settings = ServerSettings(cert_dir=tmp_path, root_dir=tmp_path, port=0)
    server = KubeletServer(
        agent(), settings, client=None, runner=SubprocessRunner(), problems=Problems(), sleep=sleep
    )
    task = asyncio.create_task(server.run())
    await eventually(lambda: looks > 2)
    assert server.port is not None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert server.port is None
