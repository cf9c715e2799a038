"""The netd command: exit statuses, and answers that people and programs can read."""

import json
import os
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
    for word in ("usage: netd", "cleanup", "--etcd-endpoints URLS", "--allow-renumber"):
        assert word in out
    assert "--kube-subnet-mgr" not in out


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


@pytest.mark.parametrize("command", ["run", "cleanup"])
def test_what_programs_the_kernel_says_that_it_needs_root(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main([command]) == 1
    assert f"{command} needs root" in capsys.readouterr().err
