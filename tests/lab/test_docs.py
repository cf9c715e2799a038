"""What operators read of ``barenode`` names what there is: commands, flags, ports, links."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.cli import build_parser
from lab.join import firstmaster, preflight, tokens
from lab.manual.catalogue import operators
from lab.manual.model import Command

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "join.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
HOSTS = ("init", "join", "reset", "token")
BARENODE = operators(build_parser("0"))
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "*/README.md", "*/*/README.md")
    for path in ROOT.glob(pattern)
    if not path.relative_to(ROOT).parts[0].startswith(".")
    and path.relative_to(ROOT).parts[0] not in {"build", "dist"}
)


def leaves(command: Command) -> Iterator[Command]:
    """The commands below, those that do something."""
    if not command.commands:
        yield command
    for one in command.commands:
        yield from leaves(one)


def flags(command: Command) -> set[str]:
    """The long names of a command's flags."""
    named = {name for group in command.groups for flag in group.flags for name in flag.names}
    return {name for name in named if name.startswith("--")} - {"--help"}


def prose(text: str) -> str:
    """A page without its blocks of code, in which brackets mean something else."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """The names by which headings of a page are linked, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Path and anchor of each link to a file of the project, either "" when left out."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor


@pytest.mark.parametrize("name", HOSTS)
def test_the_guide_names_every_flag_of_the_commands_for_hosts(name: str) -> None:
    """As a word of its own: --name is not named by --node-name."""
    commands = [one for one in leaves(BARENODE) if one.words[1] == name]
    assert commands
    wanted = set().union(*(flags(one) for one in commands))
    assert wanted - set(re.findall(r"(?<![\w-])--[a-z-]+", GUIDE)) == set()


def test_the_guide_names_no_flag_that_is_not_there() -> None:
    """Flags of other commands that it speaks of are not meant: blocks of synopsis alone count."""
    blocks = re.findall(r"^```\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    named = {name for text in blocks for name in re.findall(r"--[a-z-]+", text)}
    known = set().union(*(flags(one) for one in leaves(BARENODE) if one.words[1] in HOSTS))
    assert named
    assert named - known == set()


def test_the_guide_s_defaults_are_those_in_force() -> None:
    """Of ranges, domain and the life of a token."""
    for shown in (
        f"--network {firstmaster.DEFAULT_PODS}",
        f"--service-range {firstmaster.DEFAULT_SERVICES}",
        f"--domain {firstmaster.DEFAULT_DOMAIN}",
        f"--token-ttl {tokens.DEFAULT_TTL}",
        f"--ttl {tokens.DEFAULT_TTL}",
    ):
        assert f"[{shown}]" in GUIDE


def test_the_guide_has_every_port_that_a_host_needs_free() -> None:
    """Or a firewall would be opened by half."""
    table = GUIDE.partition("\n## Ports\n")[2].partition("\n## ")[0]
    listed = {int(number) for number in re.findall(r"\d+", table)}
    assert {*preflight.MASTER_PORTS, preflight.KUBELET_PORT} - listed == set()


def test_the_readme_s_table_has_every_command() -> None:
    """`up`, `down` in a row after `barenode lab ...` are commands of it."""
    rows = [row.split("|")[1] for row in re.findall(r"^\| .*barenode.*$", README, re.MULTILINE)]
    for command in leaves(BARENODE):
        group, last = " ".join(command.words[:2]), command.words[-1]
        assert any(group in row and re.search(rf"\b{last}\b", row) for row in rows), command.words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """To a file of the project, and to a heading in it."""
    for path, anchor in links(page):
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{path}#{anchor}"
