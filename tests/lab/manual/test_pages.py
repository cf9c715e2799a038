"""The pages tell all that parsers and tables have, and their examples work."""

import argparse
import re
import shlex
import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import netd.config
import nodeagent.config
from hostkit.config import Option, Settings, choice, integer, parse_flags, text
from lab import cli
from lab.manual import commandnotes, daemonnotes
from lab.manual.__main__ import date, edition, main
from lab.manual.catalogue import all_pages
from lab.manual.notes import Notes, SettingsNotes
from lab.manual.pages import Edition
from lab.manual.roff import render
from lab.manual.settings import notation, sort_of
from lab.manual.tables import choices
from netd.__main__ import COMMANDS as NETD_COMMANDS
from nodeagent.__main__ import COMMANDS as NODEAGENT_COMMANDS
from tests.lab.manual.test_roff import read

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Daemon:
    """What a daemon runs by, and the prose of its page of settings."""

    options: tuple[Option, ...]
    commands: dict[str, str]
    load: Callable[[Sequence[str], Mapping[str, str]], Settings]
    about: SettingsNotes


DAEMONS = {
    "netd": Daemon(
        netd.config.OPTIONS, NETD_COMMANDS, netd.config.load_settings, daemonnotes.NETD_TOML
    ),
    "nodeagent": Daemon(
        nodeagent.config.OPTIONS,
        NODEAGENT_COMMANDS,
        nodeagent.config.load_settings,
        daemonnotes.NODEAGENT_TOML,
    ),
}


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Each page as it prints, by its file's name; requests stay."""
    pages = all_pages(cli.build_parser("1"), Edition("1", "2026-01-02"))
    return {page.file: read(render(page)) for page in pages}


def below(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """*parser* and all below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from below(one)


def tops() -> dict[str, argparse.ArgumentParser]:
    """The parser of each top command."""
    [action] = [
        one for one in cli.build_parser("1")._actions if isinstance(one, argparse._SubParsersAction)
    ]
    return dict(action.choices)


def has(page: str, word: str) -> bool:
    """Whether *word* stands in *page*, not as part of a longer flag."""
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", page) is not None


def test_each_top_command_has_a_page_that_names_all_commands_and_flags_below_it(
    texts: dict[str, str],
) -> None:
    for name, top in tops().items():
        page = texts[f"barenode-{name}.8"]
        assert f"barenode-{name}(8)" in texts["barenode.8"]
        for parser in below(top):
            assert parser.prog in page
            for action in parser._actions:
                if action.help != argparse.SUPPRESS:
                    for flag in action.option_strings:
                        assert has(page, flag), f"{parser.prog}: {flag}"


def test_help_of_every_flag_is_in_the_page_of_its_command(texts: dict[str, str]) -> None:
    for name, top in tops().items():
        page = " ".join(texts[f"barenode-{name}.8"].split())
        for parser in below(top):
            for action in parser._actions:
                if action.option_strings and action.help not in {None, argparse.SUPPRESS}:
                    told = (action.help or "") % {**vars(action), "prog": parser.prog}
                    shared = "show this help" in told
                    assert shared or " ".join(told.split()) in page, f"{parser.prog}: {told}"


@pytest.mark.parametrize("name", DAEMONS)
def test_a_daemons_pages_name_every_visible_option_and_no_hidden_one(
    name: str, texts: dict[str, str]
) -> None:
    daemon = DAEMONS[name]
    page, file = texts[f"{name}.8"], texts[f"{name}.toml.5"]
    tags = set(re.findall(r"^\.TP\n(\S+)", file, re.MULTILINE))
    for option in daemon.options:
        assert has(page, f"--{option.name}") is not option.hidden, option.name
        setting = (
            not (option.hidden or option.flag_only) and option.name != daemon.about.file_option
        )
        assert (option.name in tags) is setting, option.name
        assert option.hidden or " ".join(option.help.split()) in " ".join(page.split())
    assert all(re.search(rf"^\.TP\n{word}\b", page, re.MULTILINE) for word in daemon.commands)


@pytest.mark.parametrize("name", DAEMONS)
def test_the_defaults_of_the_page_of_settings_are_the_defaults(name: str, tmp_path: Path) -> None:
    """Written into a file as the page writes them, they change nothing."""
    options, flag = DAEMONS[name].options, DAEMONS[name].about.file_option
    written = [
        f"{one.name} = {notation(one.default)}\n"
        for one in options
        if not (one.hidden or one.flag_only) and one.name != flag and notation(one.default)
    ]
    assert len(written) > 20
    file = tmp_path / "all.toml"
    file.write_text("".join(written), encoding="utf-8")
    settings = DAEMONS[name].load([f"--{flag}={file}"], {})
    for option in options:
        if option.name != flag:
            assert settings[option.name] == option.default, option.name


def all_notes() -> Iterator[Notes]:
    """The prose of all pages."""
    yield from (daemonnotes.NETD, daemonnotes.NODEAGENT, commandnotes.BARENODE)
    yield from commandnotes.COMMANDS.values()


def typed() -> Iterator[str]:
    """Every command in an example."""
    for notes in all_notes():
        for example in notes.examples:
            yield from "\n".join(example.lines).replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("line", list(typed()))
def test_an_example_of_ours_is_taken_by_its_parser(line: str) -> None:
    program, *words = shlex.split(line)
    if program == "barenode":
        assert cli.parse(words, "1").command
    elif program in DAEMONS:
        rest = parse_flags(DAEMONS[program].options, words)[1]
        assert not rest or rest[0] in DAEMONS[program].commands
    else:
        assert program in {"source", "kubectl", "docker", "systemctl"}


@pytest.mark.parametrize("name", DAEMONS)
def test_an_example_of_settings_is_taken_by_its_daemon(name: str, tmp_path: Path) -> None:
    about = DAEMONS[name].about
    [example] = about.notes.examples
    file = tmp_path / "example.toml"
    file.write_text("\n".join(example.lines), encoding="utf-8")
    settings = DAEMONS[name].load([f"--{about.file_option}={file}"], {})
    given = tomllib.loads(file.read_text(encoding="utf-8"))
    assert {settings.origins[one] for one in given} == {str(file)}


def test_pages_that_others_refer_to_are_made_here_or_known_elsewhere(
    texts: dict[str, str],
) -> None:
    known = {f"{file[:-2]}({file[-1]})" for file in texts}
    known |= {"systemctl(1)", "iptables(8)", "namespaces(7)", "docker(1)", "bash(1)"}
    for name in commandnotes.COMMANDS:
        assert name in tops()
    for page in texts.values():
        assert set(re.findall(r"\b[a-z][a-z.-]*\(\d\)", page)) <= known


def test_exit_statuses_are_those_that_the_commands_help_tells(texts: dict[str, str]) -> None:
    """No lab and no node has to be there for commands outside ``lab``."""
    for name, top in tops().items():
        told = re.findall(r"(\d+) ", next(p.epilog for p in below(top) if p.epilog) or "")
        page = texts[f"barenode-{name}.8"].partition('.SH "EXIT STATUS"')[2].partition(".SH")[0]
        meant = told if name == "lab" else [one for one in told if one != "3"]
        assert re.findall(r"^(\d+)$", page, re.MULTILINE) == meant
    assert {"0", "5", "130"} < set(told)


def test_a_command_without_prose_has_a_page_of_what_its_parser_tells() -> None:
    parser = argparse.ArgumentParser(prog="barenode")
    groups = parser.add_subparsers(dest="group")
    one = groups.add_parser("newest", help="do it at once")
    one.add_argument("--speed", choices=("low", "high"), required=True, help="100%% of it")
    rivals = one.add_mutually_exclusive_group()
    rivals.add_argument("--here", action="store_true", help="not there")
    rivals.add_argument("--there", metavar="TO", help="not here")
    needed = one.add_mutually_exclusive_group(required=True)
    needed.add_argument("--this", action="store_true")
    needed.add_argument("--that", action="store_true")
    one.add_argument("what", metavar="WHAT", nargs="*", help="so many")
    one.add_argument("--hidden", help=argparse.SUPPRESS)
    pages = {page.name: page for page in all_pages(parser, Edition("1", ""))}
    page = read(render(pages["barenode-newest"]))
    assert "barenode-newest - do it at once" in page
    assert "Do it at once." in page
    assert r"--speed\ low|high" in page
    assert "[WHAT...]" in page
    assert "100% of it" in page
    assert r"[--here\ |\ --there\ TO]" in page
    assert r"{--this\ |\ --that}" in page
    assert "--hidden" not in page


def test_what_a_setting_takes_is_read_from_its_parser() -> None:
    words = choice("a", "b")
    assert choices(words) == ("a", "b")
    assert choices(text) == choices(integer(1, 2)) == choices(int) == ()
    assert sort_of(Option("x", words, "a", "help")) == '`"a"` or `"b"`'
    assert sort_of(Option("x", integer(1, 9), 3, "help")) == "A whole number from 1 to 9"
    assert sort_of(Option("x", text, (), "help")) == "A list of strings"


@pytest.mark.parametrize("value", [True, False, 7, "plain", 'a "quoted" \\ word', ("a", "b")])
def test_a_default_is_written_in_toml(value: object) -> None:
    found = tomllib.loads(f"x = {notation(value)}")["x"]
    assert (tuple(found) if isinstance(value, tuple) else found) == value


CHANGES = """# Changelog
## [0.2.0] - 2026-03-04
## [0.1.0] - 2025-12-31
## [0.0.1] - unreleased
Not a heading: 2031-01-01
"""


def test_the_date_is_that_of_the_build_else_the_newest_change_else_none() -> None:
    assert date(CHANGES, "1700000000") == "2023-11-14"
    assert date(CHANGES, "") == "2026-03-04"
    assert date("## [0.1.0] - unreleased", "") == ""


@pytest.mark.parametrize("epoch", ["yesterday", "1e9", "9" * 30])
def test_a_time_of_the_build_that_is_none_is_refused(
    epoch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "out")], {"SOURCE_DATE_EPOCH": epoch}) == 1
    assert "SOURCE_DATE_EPOCH" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_wrong_usage_and_a_folder_that_cannot_be_made_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([], {}) == 2
    assert main(["--help"], {}) == 2
    assert "usage: python3 -m lab.manual FOLDER" in capsys.readouterr().err
    assert main([str(tmp_path / "file")], {}) == 1
    assert "lab.manual: " in capsys.readouterr().err


def test_the_version_is_the_checkouts() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert edition(ROOT, {}).version == project["project"]["version"]


def test_the_same_release_gives_the_same_files_on_every_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"SOURCE_DATE_EPOCH": "1700006400"}
    assert main([str(tmp_path / "one")], environment) == 0
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    monkeypatch.setenv("BARENODE_DATA", "/elsewhere")
    time.tzset()
    try:
        assert main([str(tmp_path / "two")], environment) == 0
    finally:
        monkeypatch.undo()
        time.tzset()
    one, two = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("one", "two")
    )
    assert one == two
    assert len(one) == len(tops()) + 6
    assert not any(str(ROOT).encode() in content for content in one.values())


def test_man_and_groff_read_every_page_without_a_warning(tmp_path: Path) -> None:
    """Needs Debian's man-db, which has groff's core with it."""
    assert shutil.which("man"), "no man here: install man-db (packaging/apt-packages.txt)"
    assert main([str(tmp_path)], {"SOURCE_DATE_EPOCH": "1700006400"}) == 0
    files = sorted(map(str, (tmp_path / "man").iterdir()))
    environment = {"PATH": "/usr/bin:/bin", "MANWIDTH": "80", "LC_ALL": "C.UTF-8"}
    for argv in (
        ["man", "--warnings", "-l", *files],
        ["groff", "-man", "-ww", "-z", *files],
        ["lexgrog", *files],
    ):
        done = subprocess.run(
            argv, capture_output=True, text=True, env=environment, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), argv[0]
