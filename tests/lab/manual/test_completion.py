"""What bash offers, and that nothing that the parsers take is missing from it."""

import argparse
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import netd.config
import nodeagent.config
from hostkit.config import Option
from lab import cli
from lab.manual.completion import script as script_of
from lab.manual.model import Command
from lab.store import Paths
from netd.__main__ import COMMANDS as NETD_COMMANDS
from nodeagent.__main__ import COMMANDS as NODEAGENT_COMMANDS
from tests.lab.manual.bash import answers, script

DEADLINE = 60.0


def offered(line: str, folder: Path) -> list[str]:
    """What bash offers at the end of *line*."""
    [found] = answers([line], folder)
    return found


def parsers(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ("barenode",)
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every parser, with what is typed to reach it."""
    yield " ".join(words), parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from parsers(below, (*words, name))


def test_every_command_and_flag_of_every_parser_is_offered_where_it_may_stand(
    tmp_path: Path,
) -> None:
    every = dict(parsers(cli.build_parser("1")))
    assert len(every) > 25
    flags = answers([f"{line} -" for line in every], tmp_path)
    words = answers([f"{line} " for line in every], tmp_path)
    for (line, parser), some, below in zip(every.items(), flags, words, strict=True):
        shown = [one for one in parser._actions if one.help != argparse.SUPPRESS]
        assert some == sorted(name for one in shown for name in one.option_strings), line
        for action in shown:
            if isinstance(action, argparse._SubParsersAction):
                assert below == sorted(action.choices), line


@pytest.mark.parametrize(
    ("name", "options", "commands"),
    [
        ("netd", netd.config.OPTIONS, NETD_COMMANDS),
        ("nodeagent", nodeagent.config.OPTIONS, NODEAGENT_COMMANDS),
    ],
)
def test_a_daemons_commands_and_visible_flags_are_offered_before_and_after_its_command(
    name: str,
    options: tuple[Option, ...],
    commands: dict[str, str],
    tmp_path: Path,
) -> None:
    seen = sorted(option.name for option in options if not option.hidden)
    words, bare, two, after = answers(
        [f"{name} ", f"{name} -", f"{name} --", f"{name} status --"], tmp_path
    )
    assert words == sorted(commands)
    assert bare == two == after == [f"--{one}" for one in seen]


WANTED: dict[str, list[str]] = {
    "barenode la": ["lab"],
    "barenode lab d": ["demo", "down"],
    "/opt/bin/barenode lab d": ["demo", "down"],
    "barenode lab up --control-plane ": ["embedded", "kubernetes", "none"],
    "barenode lab up --control-plane k": ["kubernetes"],
    "barenode lab up --control-plane=": ["embedded", "kubernetes", "none"],
    "barenode lab up --control-plane=ku": ["kubernetes"],
    "barenode lab up --control-plane none --na": ["--name"],
    "barenode lab up --control-plane=none --na": ["--name"],
    "barenode lab up --nodes 3 --jso": ["--json"],
    "barenode lab up lab --ins": ["--insecure"],
    "barenode lab list x": [],
    "barenode image build ngi": ["nginx"],
    "barenode image build hy": ["hyperkube"],
    "barenode image build nginx ": [],
    "barenode completion ": ["bash"],
    "barenode lab exec node1 ": ["--"],
    "barenode lab kubectl -- ": [],
    "barenode lab list -- ": [],
    "netd -ov": ["-overlay"],
    "netd --ov": ["--overlay"],
    "netd -overlay o": ["off", "on"],
    "netd --overlay=of": ["off"],
    "netd -overlay=of": ["off"],
    "netd --overlay=off cl": ["cleanup"],
    "netd --overlay off --services a": ["auto"],
    "netd --iptables_variant le": ["legacy"],
    "netd --ip-masq=": ["false", "true"],
    "netd --ip-masq cl": ["cleanup"],
    "netd --nothing=": [],
    "netd -ip_masq=t": ["true"],
    "barenode lab up --json=": [],
    "netd --etcd-endpoints=http://127.0.0.1:23": [],
    "netd --etcd-endpoints=http://127.0.0.1:2379 --ov": ["--overlay"],
    "netd explain default/nginx --js": ["--json"],
    "netd explain ": [],
    "netd -- ": [],
    "nodeagent --tls-min-version ": ["VersionTLS12", "VersionTLS13"],
    "nodeagent --authorization-mode=W": ["Webhook"],
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What one bash offers for each of these lines."""
    lines = list(WANTED)
    return dict(zip(lines, answers(lines, tmp_path_factory.mktemp("empty")), strict=True))


@pytest.mark.parametrize("line", WANTED)
def test_what_is_offered_at_the_end_of(line: str, found: dict[str, list[str]]) -> None:
    assert found[line] == WANTED[line]


def test_hidden_flags_are_not_offered(tmp_path: Path) -> None:
    assert offered("netd --kube-subnet", tmp_path) == []
    assert offered("nodeagent --network-plu", tmp_path) == []


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a file, a file whose name has blanks and a colon, and a folder."""
    (tmp_path / "netd.toml").touch()
    (tmp_path / "my net:1.toml").touch()
    (tmp_path / "netfolder").mkdir()
    (tmp_path / "netfolder" / "inner.toml").touch()
    return tmp_path


def test_files_are_offered_for_files_and_folders_alone_for_folders(files: Path) -> None:
    lines = [
        "netd --config net",
        "netd --config=net",
        "netd -config ./netf",
        f"netd --config={files}/netfolder/",
        "netd --state-dir net",
        "netd --state-dir=net",
        "nodeagent --config net",
        "barenode image build nginx -o net",
        "barenode lab load net",
    ]
    both, folder = ["netd.toml", "netfolder"], ["netfolder"]
    assert answers(lines, files) == [
        both,
        both,
        ["./netfolder"],
        [f"{files}/netfolder/inner.toml"],
        folder,
        folder,
        both,
        both,
        both,
    ]


def test_a_file_with_blanks_or_a_colon_in_its_name_is_found_quoted_or_not(files: Path) -> None:
    lines = ["netd --config my", 'netd --config "my n', r"netd --config my\ n", "netd --config=my"]
    assert answers(lines, files) == [["my net:1.toml"]] * 4
    # Readline keeps what stands before the colon.
    assert offered(r"netd --config my\ net:1", files) == ["1.toml"]


def test_labs_and_their_nodes_are_found_by_their_files(tmp_path: Path) -> None:
    for path in ("labs/alpha/node1", "labs/alpha/node2", "labs/alpha/pki", "labs/lab/node7"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "labs" / "alpha" / "lab.json").touch()
    lines = [
        "barenode lab status --name al",
        "barenode lab down --name=al",
        "barenode lab exec --name alpha n",
        "barenode lab exec --name=alpha n",
        "barenode lab exec --name alpha node1 ",
        "barenode lab kill no",
        "barenode lab load a.tar --name alpha node1 n",
    ]
    found = answers(lines, tmp_path, environment={"BARENODE_DATA": str(tmp_path)})
    assert found == [
        ["alpha"],
        ["alpha"],
        ["node1", "node2"],
        ["node1", "node2"],
        ["--"],
        ["node7"],
        ["node1", "node2"],
    ]


def test_what_follows_two_dashes_is_a_command_and_then_a_file(files: Path) -> None:
    command, then = answers(["barenode lab exec n1 -- bas", "barenode lab exec n1 -- ls n"], files)
    assert "bash" in command
    assert then == ["netd.toml", "netfolder"]


def test_interfaces_are_offered_by_name(tmp_path: Path) -> None:
    assert "lo" in offered("netd --iface l", tmp_path)


def test_the_cursor_may_stand_inside_the_line(tmp_path: Path) -> None:
    """What follows it does not count."""
    assert answers(["netd --over|lay=off --json"], tmp_path) == [["--overlay"]]


@pytest.mark.parametrize("options", ["set -u", "shopt -s failglob", "shopt -s nullglob", "IFS=e"])
def test_an_operators_own_options_of_bash_change_nothing(options: str, tmp_path: Path) -> None:
    lines = ["netd --overlay=of", "barenode lab exec --name none ", "barenode lab d"]
    assert answers(lines, tmp_path, options=options) == [["off"], [], ["demo", "down"]]


def test_readline_itself_completes_commands_flags_and_values_after_an_equals_sign(
    tmp_path: Path,
) -> None:
    """A real interactive bash: it cuts the words and puts the answers on the line."""
    (tmp_path / "my net:1.toml").touch()
    (tmp_path / "barenode.bash").write_text(script())
    terminal, other = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=other,
        stdout=other,
        stderr=other,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "TERM": "dumb"},
    )
    try:
        os.write(terminal, b"PS1=; . ./barenode.bash; netd() { printf '<%s>' \"$@\" END; }\n")
        os.write(terminal, b"netd --bridge=a:b --config my\\ net:\t\n")
        first = read_until(terminal, b"<END>")
        os.write(terminal, b"netd cle\t--services=a\t-config my\t -ov\tof\t\n")
        second = read_until(terminal, b"<END>")
    finally:
        shell.kill()
        shell.wait()
        os.close(terminal)
        os.close(other)
    assert shown(first) == ["--bridge=a:b", "--config", "my net:1.toml"]
    assert shown(second) == [
        "cleanup",
        "--services=auto",
        "-config",
        "my net:1.toml",
        "-overlay",
        "off",
    ]


def shown(said: bytes) -> list[str]:
    """The arguments that the function printed."""
    return re.findall(r"<([^>]*)>", said.decode().rpartition("\n")[2])[:-1]


def read_until(terminal: int, mark: bytes) -> bytes:
    """What bash prints up to *mark* at the start of a word that it did not merely echo."""
    said, end = b"", time.monotonic() + DEADLINE
    while mark not in said:
        ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"bash did not get there: {said!r}"
        said += os.read(terminal, 65536)
    return said


def test_words_that_the_shell_would_read_as_something_else_are_quoted() -> None:
    text = script_of([Command(("a$b; rm",), "")], Paths.standard({}))
    assert "'a$b; rm')" in text
