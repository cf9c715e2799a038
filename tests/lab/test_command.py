"""The command line, what it prints, and its exit statuses."""

import io
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from lab import cli, output, probe, status
from lab.__main__ import only_failure
from lab.control import ControlStatus
from lab.demo import Visit, demo_sheet, next_step, page
from lab.errors import BusyError, LabError, NotFoundError, PrerequisiteError, UsageError
from lab.model import ProcessRef, ServiceState
from lab.probe import node_environment
from lab.status import LabStatus, NodeStatus

READY = (ServiceState(name="netd", state="ready"), ServiceState(name="dockerd", state="ready"))
FABRIC = NodeStatus(name="fabric", address="198.18.0.1", state="ready", pid=1)
NODE = NodeStatus(
    name="node1", address="198.18.0.11", state="ready", pid=2, subnet="10.1.5.1/24", services=READY
)


def lab(*nodes: NodeStatus) -> LabStatus:
    """A lab with these nodes."""
    return LabStatus(
        name="lab",
        state=status.lab_state(FABRIC, nodes),
        underlay="198.18.0.0/24",
        overlay="10.1.0.0/16",
        etcd="http://198.18.0.1:2379",
        fabric=FABRIC,
        nodes=nodes,
    )


def refused(*words: str) -> str:
    """What ``barenode`` says to wrong usage; its exit status is 2."""
    done = subprocess.run(
        [sys.executable, "-m", "lab", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_commands_become_values() -> None:
    """With their defaults."""
    up = cli.parse(["lab", "up", "--nodes", "3", "--network", "10.7.0.0/16"], "1")
    assert (up.command, up.name, up.nodes, up.network) == ("up", "lab", 3, "10.7.0.0/16")
    load = cli.parse(["lab", "load", "a.tar", "node1", "node2"], "1")
    assert (load.image, load.nodes) == ("a.tar", ["node1", "node2"])
    assert cli.parse(["lab", "down", "--all"], "1").all
    assert cli.parse(["lab", "demo"], "1").name == "demo"
    assert (up.control_plane, up.masters, up.insecure) == (None, None, False)
    assert cli.parse(["lab", "up", "--control-plane", "none"], "1").control_plane == "none"
    real = cli.parse(["lab", "up", "--control-plane", "kubernetes", "--masters", "3"], "1")
    assert (real.control_plane, real.masters, real.kube_bin_dir) == ("kubernetes", 3, "")
    assert cli.parse(["lab", "down", "--keep"], "1").keep


def test_everything_after_two_dashes_belongs_to_the_command_in_the_node() -> None:
    """Also words that look like our own flags, and further dashes."""
    found = cli.parse(["lab", "exec", "--name", "x", "node1", "--", "ls", "--name", "--"], "1")
    assert (found.name, found.node, found.remainder) == ("x", "node1", ["ls", "--name", "--"])
    asked = cli.parse(["lab", "kubectl", "--", "get", "pods", "--name", "-A"], "1")
    assert (asked.name, asked.remainder) == ("lab", ["get", "pods", "--name", "-A"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("lab", "upp"), "did you mean 'up'"),
        (("lba",), "did you mean 'lab'"),
        (("lab", "up", "--nods", "3"), "did you mean '--nodes'"),
        (("lab", "up", "--nods=3"), "did you mean '--nodes'"),
        (("lab", "status", "--jsn"), "did you mean '--json'"),
        (("lab", "up", "--nodes", "many"), "invalid int value"),
        (("lab", "exec", "node1"), "exec needs a command"),
        (("lab", "down", "--", "x"), "for exec and kubectl only"),
        (("lab", "kubectl"), "kubectl needs its arguments"),
        (("lab",), "required: COMMAND"),
        ((), "required: COMMAND"),
    ],
)
def test_wrong_usage_is_explained_with_the_nearest_word(
    words: tuple[str, ...], expected: str
) -> None:
    """Exit status 2, no traceback."""
    assert expected in refused(*words)


def test_version_and_help_are_there_for_everyone() -> None:
    """They need no root; help tells the exit statuses."""
    for words in (["--version"], ["--help"], ["lab", "up", "--help"], ["image", "build", "--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "lab", *words], capture_output=True, text=True, check=True
        )
        assert words[-1] != "--help" or "exit status" in done.stdout or words[0] == "image"


def test_each_kind_of_failure_has_its_own_exit_status() -> None:
    """As documented in --help."""
    kinds = (LabError, UsageError, NotFoundError, BusyError, PrerequisiteError)
    assert [kind.exit_status for kind in kinds] == [1, 2, 3, 4, 5]


def test_of_several_failures_the_first_is_told_and_a_bug_is_not_hidden() -> None:
    """Nodes come up in parallel and fail in groups."""
    inner = ExceptionGroup("two", [NotFoundError("first"), LabError("second")])
    assert str(only_failure(ExceptionGroup("nodes", [inner]))) == "first"
    assert only_failure(ExceptionGroup("bug", [LabError("x"), TypeError("y")])) is None


@pytest.mark.parametrize(
    ("alive", "docker", "services", "netd", "expected"),
    [
        (False, True, READY, True, "dead"),
        (True, True, READY, True, "ready"),
        (True, True, READY, None, "ready"),
        (True, True, READY, False, "starting"),
        (True, False, READY, True, "starting"),
        (True, True, (), None, "starting"),
        (True, True, (ServiceState(name="netd", state="failed"),), None, "starting"),
    ],
)
def test_a_node_is_ready_when_all_that_was_looked_at_says_so(
    alive: bool, docker: bool, services: tuple[ServiceState, ...], netd: bool | None, expected: str
) -> None:
    """A netd without control socket is believed by its READY=1."""
    assert status.node_state(alive, docker, services, netd) == expected
    assert status.node_state(alive, docker, services, None, netd) == expected


def test_a_lab_is_as_good_as_its_worst_node() -> None:
    """And dead when nothing lives."""
    dead = NodeStatus(name="node2", address="198.18.0.12", state="dead")
    assert lab(NODE).state == "ready"
    assert lab(NODE, dead).state == "degraded"
    assert status.lab_state(dead, (dead,)) == "dead"


def test_output_is_plain_where_nobody_watches_and_json_is_json() -> None:
    """Aligned columns without colour codes; nothing else on stdout."""
    stdout, stderr = io.StringIO(), io.StringIO()
    shown = output.Output(Console(file=stdout), Console(file=stderr), clock=lambda: 0.0)
    shown.progress("node1", "waiting for [netd]")
    shown.sheet(output.status_sheet(lab(NODE)))
    lines = stdout.getvalue().splitlines()
    assert lines[0].split() == ["node", "state", "address", "pods", "pid", "services"]
    assert lines[2].startswith("node1   ready  198.18.0.11  10.1.5.1/24")
    assert "\x1b" not in stdout.getvalue()
    assert "waiting for [netd]" in stderr.getvalue()
    stdout.truncate(stdout.seek(0))
    shown.json(lab(NODE))
    assert json.loads(stdout.getvalue())["nodes"][0]["subnet"] == "10.1.5.1/24"


def test_a_terminal_gets_a_table_in_colour() -> None:
    """The same cells."""
    stdout = io.StringIO()
    terminal = Console(file=stdout, force_terminal=True, width=120, color_system="standard")
    output.Output(terminal, Console(file=io.StringIO())).sheet(output.status_sheet(lab(NODE)))
    assert "\x1b[" in stdout.getvalue()
    assert "10.1.5.1/24" in stdout.getvalue()


def test_the_table_says_what_daemons_complain_about_and_what_was_restarted() -> None:
    """The operator need not read JSON to see it."""
    again = ServiceState(name="netd", state="ready", restarts=2)
    node = NodeStatus(
        name="node1",
        address="198.18.0.11",
        state="starting",
        services=(again,),
        netd_ready=False,
        netd={"not_ready": ["no etcd"]},
    )
    cell = output.status_sheet(lab(node)).rows[1][-1]
    assert cell == "netd ready (restarted 2x), netd says not ready: no etcd"
    agent = {"not_ready": ["docker: does not answer"]}
    waiting = msgspec.structs.replace(node, netd_ready=True, nodeagent_ready=False, nodeagent=agent)
    cell = output.status_sheet(lab(waiting)).rows[1][-1]
    assert cell.endswith("(restarted 2x), nodeagent says not ready: docker: does not answer")


def test_the_headline_tells_what_the_control_plane_says() -> None:
    """Its URL, and how many of its nodes and pods are ready, unless it does not answer."""
    bare = lab(NODE)
    assert output.headline(bare) == "lab lab is ready; pods 10.1.0.0/16"
    url = "http://198.18.0.1:8080"
    plane = ControlStatus(url=url, ready=True, nodes=2, nodes_ready=1, pods=4, pods_ready=3)
    found = msgspec.structs.replace(bare, service_range="10.0.0.0/24", control=plane)
    assert output.headline(found).endswith(
        f"services 10.0.0.0/24; API {url}, 1 of 2 nodes Ready, 3 of 4 pods Ready"
    )
    silent = msgspec.structs.replace(found, control=ControlStatus(url=url))
    assert output.headline(silent).endswith(f"API {url} does not answer")


def test_labs_that_are_partly_there_are_listed() -> None:
    """They can be removed by name."""
    assert output.list_sheet([], ["ghost"]).rows == (("ghost", "partly there", "-", "-", "-"),)


def test_the_demo_s_table_says_who_reached_whom() -> None:
    """And why not."""
    visits = [
        Visit("node1", "node2", "10.1.5.2", True),
        Visit("node2", "node1", "10.1.6.2", False, "timed out"),
    ]
    rows = demo_sheet(visits).rows
    assert rows[0] == ("container on node1", "http://10.1.5.2/ on node2", "yes")
    assert rows[1][2] == "no: timed out"
    assert page("node1") != page("node2")
    assert "lab down --name x" in next_step("barenode", "x", kept=True)
    assert "lab up" in next_step("barenode", "x", kept=False)


def test_the_operator_s_docker_settings_stay_outside() -> None:
    """DOCKER_HOST would lead a command in the node to the host's daemon."""
    found = node_environment({"DOCKER_HOST": "tcp://x", "TERM": "xterm", "PATH": "/x"})
    assert found["TERM"] == "xterm"
    assert "DOCKER_HOST" not in found
    assert "/usr/sbin" in found["PATH"]


def test_a_process_is_told_from_a_later_one_with_its_number() -> None:
    """Also when its name contains blanks and parentheses."""
    stat = "7 (a) b (c) S 1 " + " ".join(str(n) for n in range(5, 53))
    assert probe.parse_stat(stat) == ("S", 22)
    mine = probe.process_ref(1)
    assert mine is not None
    assert probe.alive(mine)
    assert not probe.alive(ProcessRef(pid=1, started=mine.started + 1))
    assert not probe.alive(None)


GRANTED = [
    (["CAP_SYS_RESOURCE", "CAP_CHOWN"], ["CAP_CHOWN"]),
    (["CAP_CHOWN", "CAP_SYS_RESOURCE", "CAP_KILL"], ["CAP_CHOWN", "CAP_KILL"]),
    (["CAP_CHOWN", "CAP_SYS_RESOURCE"], ["CAP_CHOWN"]),
    (["CAP_SYS_RESOURCE"], []),
    (["CAP_CHOWN"], ["CAP_CHOWN"]),
    ([], []),
]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("command", ["create", "exec"])
def test_the_runc_wrapper_asks_only_for_what_is_granted(
    tmp_path: Path, command: str, indent: int | None
) -> None:
    """Capability and oom_score_adj are changed, the rest and the arguments are passed on."""
    runc = tmp_path / "runc"
    runc.write_text('#!/bin/sh\necho "$@"\n')
    runc.chmod(0o755)
    config = tmp_path / ("config.json" if command == "create" else "process.json")
    where = ["--bundle", str(tmp_path)] if command == "create" else [f"--process={config}"]
    wrapper = Path(cli.__file__).parent / "assets" / "runc-lab"
    said = ["CAP_SYS_RESOURCE", '"capabilities":{"CAP_SYS_RESOURCE"', '"oomScoreAdj":-7']
    for before, after in GRANTED:
        sets = {"bounding": before, "effective": before, "ambient": None}
        process = {"args": said, "oomScoreAdj": -500, "capabilities": sets, "cwd": "/"}
        text = {"process": process, "hooks": {}} if command == "create" else process
        separators = None if indent else (",", ":")
        config.write_text(json.dumps(text, indent=indent, separators=separators))
        done = subprocess.run(
            ["sh", wrapper, "--root", "/r", command, *where, "id"],
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        )
        assert done.stdout.split() == ["--root", "/r", command, *where, "id"]
        left = json.loads(config.read_text())
        wanted = {"bounding": after, "effective": after, "ambient": None}
        changed = {**process, "oomScoreAdj": 0, "capabilities": wanted}
        assert (left["process"] if command == "create" else left) == changed


def test_the_runc_wrapper_leaves_other_commands_and_files_alone(tmp_path: Path) -> None:
    runc = tmp_path / "runc"
    runc.write_text('#!/bin/sh\necho "$@"; exit 3\n')
    runc.chmod(0o755)
    config = tmp_path / "config.json"
    config.write_text('{"process": {"oomScoreAdj": 100}}')
    before = config.stat()
    wrapper = Path(cli.__file__).parent / "assets" / "runc-lab"
    for words in (["start", "id"], ["create", "-b", str(tmp_path), "id"]):
        done = subprocess.run(
            ["sh", wrapper, *words],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        )
        assert (done.stdout.split(), done.returncode) == (words, 3)
    assert config.stat() == before
