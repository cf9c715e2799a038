"""The nodeagent command: exit statuses, and answers that people and programs can read."""

import asyncio
import fcntl
import json
import os
import socketserver
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from nodeagent.__main__ import _alone, main
from tests.nodeagent.test_view import document


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this machine's file nor its environment nor its running nodeagent."""
    for name in list(os.environ):
        if name.startswith(("KUBELET_", "NODEAGENT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NODEAGENT_SETTINGS", "/dev/null")
    monkeypatch.setenv("NODEAGENT_RUN_DIR", str(tmp_path))


@pytest.fixture
def no_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root, but a daemon that would start in spite of the test must not touch this machine."""

    def refuse(*_args: object) -> None:
        raise AssertionError("a daemon would have been started")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(asyncio, "run", refuse)


@contextmanager
def answering(path: Path, body: bytes) -> Iterator[list[str]]:
    """A nodeagent at *path* that answers *body*; gives what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + body)

    with socketserver.UnixStreamServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--api-server=x"], ["unknown flag --api-server", "did you mean --api-servers?"]),
        (["statu"], ["unknown command statu", "did you mean status?"]),
        (["run", "now"], ["run takes no argument: now"]),
        (["--port=x"], ["port", "'x'", "1 to 65535"]),
        (["--config"], ["--config needs a value"]),
        (["--settings=/nowhere/x.toml"], ["/nowhere/x.toml", "cannot be read"]),
        (["--network-plugin=cni"], ["flag --network-plugin", "docker0"]),
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_wrong_on_standard_error(
    capsys: pytest.CaptureFixture[str], argv: list[str], words: list[str]
) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(word in err for word in words), err
    assert "'nodeagent help' lists commands and flags" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("argv", [["help"], ["--help"], ["-h"], ["run", "-help"]])
def test_help_lists_commands_flags_and_exit_statuses(
    capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for word in ("usage: nodeagent", "cleanup", "--api-servers URLS", "--cluster-dns ADDRESSES",
                 "exit status: 0 done", "3 nodeagent is not running"):  # fmt: skip
        assert word in out
    for hidden in ("--feature-gates", "--network-plugin ", "--master-service-namespace"):
        assert hidden not in out


@pytest.mark.parametrize("argv", [["version"], ["--version"], ["status", "-version"]])
def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("nodeagent ")


def test_print_config_shows_each_value_and_where_it_came_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "nodeagent.toml"
    file.write_text("max-pods = 40\n")
    monkeypatch.setenv("KUBELET_CLUSTER_DOMAIN", "example.org")
    argv = [f"--settings={file}", "-cluster-dns=10.0.0.10", "--print-config"]
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    found = {line.split()[0]: line.split(None, 2)[1:] for line in lines}
    assert found["max-pods"] == ["40", str(file)]
    assert found["cluster-domain"] == ["example.org", "environment KUBELET_CLUSTER_DOMAIN"]
    assert found["cluster-dns"] == ["10.0.0.10", "flag --cluster-dns"]
    assert found["kubeconfig"] == ["(none)", "default"]
    assert main([*argv, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["max-pods"] == {"value": "40", "from": str(file)}


def test_status_without_a_running_nodeagent_exits_3(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["status"]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"is not running (control socket {tmp_path / 'nodeagent.sock'})" in err
    assert main(["status", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["running"] is False


@pytest.mark.parametrize(("ready", "status"), [(True, 0), (False, 4)])
def test_status_shows_what_the_running_nodeagent_says_and_exits_4_when_it_is_not_ready(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, ready: bool, status: int
) -> None:
    said = document(ready=ready)
    with answering(tmp_path / "nodeagent.sock", json.dumps(said).encode()) as asked:
        assert main(["status", "--json"]) == status
        assert json.loads(capsys.readouterr().out) == {"running": True, **said}
        assert main(["status"]) == status
        assert "default/web" in capsys.readouterr().out
    assert asked == ["/status", "/status"]


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b""])
def test_what_is_no_nodeagent_is_not_taken_for_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, body: bytes
) -> None:
    with answering(tmp_path / "nodeagent.sock", body):
        assert main(["status"]) == 3
    assert "something else than nodeagent" in capsys.readouterr().err


def test_an_agent_of_another_release_is_no_reason_for_a_traceback(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with answering(tmp_path / "nodeagent.sock", b'{"ready": true, "pods": null}'):
        assert main(["status"]) == 1
    assert "restart it" in capsys.readouterr().err


@pytest.mark.usefixtures("no_daemon")
def test_without_a_source_of_pods_there_is_nothing_to_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([]) == 2
    assert "no source of pods" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_daemon")
@pytest.mark.parametrize("command", ["run", "cleanup"])
def test_a_run_directory_in_use_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    with (tmp_path / "nodeagent.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert main([command, "--config=/m"]) == 1
    assert f"another nodeagent holds {tmp_path}" in capsys.readouterr().err


@pytest.mark.usefixtures("no_daemon")
def test_one_docker_has_one_nodeagent_by_whatever_path_and_run_directory(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "docker.sock").touch()
    (tmp_path / "link.sock").symlink_to("docker.sock")
    with ExitStack() as held:
        first = _alone(tmp_path / "docker.sock")
        assert first is not None
        held.callback(first.close)
        other = _alone(tmp_path / "other.sock")
        assert other is not None
        held.callback(other.close)
        argv = ["--config=/m", f"--docker-endpoint=unix://{tmp_path}/link.sock"]
        assert main([*argv, f"--run-dir={tmp_path}/run"]) == 1
    assert "another nodeagent runs pods through" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "cleanup"])
def test_what_mounts_says_that_it_needs_root(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main([command, "--config=/m"]) == 1
    assert f"{command} needs root" in capsys.readouterr().err


def test_status_is_asked_for_also_while_a_file_with_settings_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The nodeagent that runs knows what is wrong with it; nothing else gets by."""
    bad = tmp_path / "bad.toml"
    bad.write_text("no-such-setting = 1\n")
    monkeypatch.setenv("NODEAGENT_SETTINGS", str(bad))
    assert main(["status"]) == 3
    told = capsys.readouterr().err
    assert f"{bad}: unknown setting no-such-setting" in told
    assert "asking without any file" in told
    for argv in (["status", "--no-such-flag"], ["cleanup"], ["--print-config"]):
        assert main(argv) == 2
