"""The netd command: exit statuses, and answers that people and programs can read."""

import asyncio
import fcntl
import json
import os
import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from netd.__main__ import main


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this machine's file nor its environment nor its running netd."""
    for name in list(os.environ):
        if name.startswith(("FLANNELD_", "NETD_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETD_CONFIG", "/dev/null")
    monkeypatch.setenv("NETD_RUN_DIR", str(tmp_path))


@pytest.fixture
def no_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root, but a daemon that would start in spite of the test must not touch this machine."""

    def refuse(*_args: object) -> None:
        raise AssertionError("a daemon would have been started")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(asyncio, "run", refuse)


@contextmanager
def answering(path: Path, document: Mapping[str, object]) -> Iterator[list[str]]:
    """A netd at *path* that answers *document*; gives what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = json.dumps(document).encode()
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
        (["--etcd-endpont=x"], ["unknown flag --etcd-endpont", "did you mean --etcd-endpoints?"]),
        (["run", "-ifase=x"], ["unknown flag -ifase", "did you mean -iface?"]),
        (["rum"], ["unknown command rum", "did you mean run?"]),
        (["run", "now"], ["run takes no argument: now"]),
        (["--ip-masq", "false"], ["unknown command false"]),
        (["status", "--healthz-port=x"], ["healthz-port", "'x'", "0 to 65535"]),
        (["--iface"], ["--iface needs a value"]),
        (["--config=/nowhere/netd.toml"], ["/nowhere/netd.toml", "cannot be read"]),
        (["explain", "web", "db"], ["explain takes one target: web db"]),
        (["status", "--cleanup"], ["--cleanup does not go with status"]),
        (["--proxy-mode=ipvs"], ["flag --proxy-mode", "iptables only"]),
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_wrong_on_standard_error(
    capsys: pytest.CaptureFixture[str], argv: list[str], words: list[str]
) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(word in err for word in words), err
    assert "'netd help' lists commands and flags" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("argv", [["help"], ["--help"], ["-h"], ["run", "-help"]])
def test_help_lists_commands_and_flags(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for word in ("usage: netd", "explain", "--etcd-endpoints URLS", "--allow-renumber", "--master"):
        assert word in out
    for hidden in ("--kube-subnet-mgr", "--logtostderr", "--feature-gates"):
        assert hidden not in out


@pytest.mark.parametrize("argv", [["version"], ["--version"], ["status", "-version"]])
def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("netd ")


def test_print_config_shows_each_value_and_where_it_came_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "netd.toml"
    file.write_text('etcd-prefix = "/overlay"\n')
    monkeypatch.setenv("FLANNELD_IP_MASQ", "true")
    monkeypatch.setenv("NETD_ETCD_PASSWORD", "s3cret")
    assert main([f"--config={file}", "-iface=eth1", "--print-config"]) == 0
    out, _ = capsys.readouterr()
    rows = {line.split()[0]: line.split(None, 2)[1:] for line in out.splitlines()}
    assert rows["etcd-prefix"] == ["/overlay", str(file)]
    assert rows["ip-masq"] == ["true", "environment FLANNELD_IP_MASQ"]
    assert rows["iface"] == ["eth1", "flag --iface"]
    assert rows["etcd-cafile"] == ["(none)", "default"]
    assert rows["etcd-password"] == ["(hidden)", "environment NETD_ETCD_PASSWORD"]
    assert "s3cret" not in out


def test_print_config_as_json_has_the_same_values_and_hides_the_same_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETD_ETCD_PASSWORD", "s3cret")
    assert main(["--print-config", "--json", "--healthz-port=8285"]) == 0
    out, _ = capsys.readouterr()
    document = json.loads(out)
    assert document["healthz-port"] == {"value": "8285", "from": "flag --healthz-port"}
    assert document["etcd-password"]["value"] == "(hidden)"
    assert document["subnet-file"]["from"] == "default"
    assert "s3cret" not in out


def test_status_without_a_running_netd_exits_3_in_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["status"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"is not running (control socket {tmp_path / 'netd.sock'})" in err
    assert "stays in place" in err


def test_status_as_json_without_a_running_netd_is_json_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["status", "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["running"] is False
    assert "is not running" in document["error"]


def test_explain_without_a_target_says_what_can_be_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["explain"]) == 2
    assert "NAMESPACE/NAME" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["explain", "web"], ["explain", "10.0.0.7:80"]])
def test_explain_without_a_running_netd_exits_3(
    capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    assert main(argv) == 3
    assert "is not running" in capsys.readouterr().err
    assert main([*argv, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["running"] is False


ENDPOINT = {"address": "10.1.2.3:80", "probability": 1, "local": False, "node": ""}
ANSWER = {
    "frontend": "10.0.0.7:80/tcp", "kind": "cluster IP", "service": "default/web", "port": "",
    "steps": [], "endpoints": [ENDPOINT], "notes": [], "wrong": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("found", "answers", "status"),
    [
        (True, [ANSWER], 0),
        (True, [ANSWER, ANSWER | {"endpoints": []}], 0),
        (True, [ANSWER | {"endpoints": [], "wrong": ["no endpoint"]}], 1),
        (False, [], 1),
    ],
)
def test_explain_exits_0_only_when_somebody_would_answer(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    found: bool,
    answers: list[dict[str, object]],
    status: int,
) -> None:
    document = {"target": "web", "found": found, "answers": answers, "wrong": []}
    with answering(tmp_path / "netd.sock", document) as asked:
        assert main(["explain", "default/web:80", "--json"]) == status
        assert json.loads(capsys.readouterr().out) == document
        assert main(["explain", "default/web:80"]) == status
        assert ("10.0.0.7:80/tcp" in capsys.readouterr().out) == found
    assert asked == ["/explain?target=default%2Fweb%3A80"] * 2


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["run", "--overlay=off", "--services=off"], "both off"),
        (["--overlay=off"], "no API server is named"),
        (["run", "--services=on"], "flag --services: services is on, but no API server"),
        (["cleanup", "--overlay=off", "--services=off"], "both off"),
    ],
)
@pytest.mark.usefixtures("no_daemon")
def test_halves_that_leave_nothing_to_do_are_wrong_usage(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, argv: list[str], words: str
) -> None:
    assert main(argv) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_daemon")
def test_a_run_directory_in_use_is_named_with_the_way_to_run_two(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with (tmp_path / "netd.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert main(["run"]) == 1
    err = capsys.readouterr().err
    assert f"another netd holds {tmp_path}" in err
    assert "another --run-dir" in err


@pytest.mark.parametrize(
    ("argv", "command"),
    [(["run"], "run"), (["cleanup"], "cleanup"), (["--cleanup"], "cleanup"),
     (["run", "--cleanup-iptables"], "cleanup")],
)  # fmt: skip
def test_what_programs_the_kernel_says_that_it_needs_root(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    command: str,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(argv) == 1
    assert f"{command} needs root" in capsys.readouterr().err


def test_status_is_asked_for_also_while_a_file_with_settings_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The netd that runs knows what is wrong with it; nothing else gets by."""
    bad = tmp_path / "bad.toml"
    bad.write_text("no-such-setting = 1\n")
    monkeypatch.setenv("NETD_CONFIG", str(bad))
    assert main(["status"]) == 3
    told = capsys.readouterr().err
    assert f"{bad}: unknown setting no-such-setting" in told
    assert "asking without any file" in told
    for argv in (["status", "--no-such-flag"], ["cleanup"], ["--print-config"]):
        assert main(argv) == 2
