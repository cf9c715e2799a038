"""What ``barenode lab up`` makes of its flags before anything is built."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from lab import cli
from lab.__main__ import Application
from lab.errors import UsageError
from lab.hyperkube import Hyperkube
from lab.kubernetes import Wish
from lab.master.plane import Version
from lab.model import LabSpec
from lab.plan import make_lab

SPEC = make_lab("x", 2, None, [])


class Labs:
    """Stands for the cluster: remembers what it was asked for."""

    def __init__(self, *, kept: bool = False) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.kept = kept
        self.store = self

    def is_kept(self, _name: str) -> bool:
        """Whether the lab is down and kept."""
        return self.kept

    def require(self, name: str, *, control_plane: bool) -> None:
        """This machine has everything."""

    def require_new(self, name: str) -> None:
        """There is none of that name."""

    async def resume(self, name: str) -> LabSpec:
        """Boot it again."""
        self.asked.append(("resume", name))
        return SPEC

    async def up(
        self, name: str, nodes: int, _net: object, *, control_plane: bool, wish: Wish | None
    ) -> LabSpec:
        """Make it."""
        self.asked.append((name, nodes, control_plane, wish))
        return SPEC

    async def halt(self, name: str) -> None:
        """Down and kept."""
        self.asked.append(("halt", name))

    async def down(self, name: str) -> bool:
        """Removed."""
        self.asked.append(("down", name))
        return True


class Quiet:
    """Output that nobody reads."""

    def progress(self, _subject: str, _text: str) -> None:
        """Nothing."""

    def json(self, _value: object) -> None:
        """Nothing."""


class Told(Application):
    """Commands whose images are there already."""

    made = 0

    async def _hyperkube(self, args: Namespace) -> Hyperkube:
        Told.made += 1
        return Hyperkube(args.hyperkube_image or "h", Version(1, 20), Path("/h.tar"), None)


async def run(labs: Labs, *words: str) -> list[tuple[Any, ...]]:
    """What the cluster is asked for by ``barenode lab WORDS``."""
    args = cli.parse(["lab", *words], "1")
    application = Told(labs, None, Quiet())  # type: ignore[arg-type]
    await getattr(application, args.command)(args)
    return labs.asked


@pytest.fixture(autouse=True)
def _no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look(_spec: LabSpec) -> None:
        return None

    monkeypatch.setattr("lab.status.look", look)


async def test_without_flags_there_are_two_nodes_and_the_embedded_control_plane() -> None:
    """The quick one."""
    assert await run(Labs(), "up", "--json") == [("lab", 2, True, None)]
    assert await run(Labs(), "up", "--control-plane", "none", "--json") == [("lab", 2, False, None)]


async def test_a_real_kubernetes_has_one_master_unless_told() -> None:
    """Nodes are workers then."""
    real = ("up", "--json", "--control-plane", "kubernetes")
    ((_, nodes, control_plane, wish),) = await run(Labs(), *real)
    assert (nodes, control_plane, wish.masters, wish.insecure) == (2, True, 1, False)
    more = ("--masters", "3", "--nodes", "5", "--insecure", "--hyperkube-image", "h:v1.18.20")
    ((_, nodes, _, wish),) = await run(Labs(), *real, *more)
    assert (nodes, wish.masters, wish.insecure, wish.hyperkube.tag) == (5, 3, True, "h:v1.18.20")


@pytest.mark.parametrize(
    "words",
    [("--masters", "3"), ("--insecure",), ("--kube-bin-dir", "/x"), ("--hyperkube-image", "x"),
     ("--kubernetes-version", "v1.20.2")],
)  # fmt: skip
async def test_a_flag_that_would_do_nothing_is_refused_by_name(words: tuple[str, ...]) -> None:
    """Better than to be surprised by a lab without masters."""
    with pytest.raises(UsageError, match=f"^{words[0]} needs --control-plane kubernetes"):
        await run(Labs(), "up", *words)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--name", "A_b"), "lab name"),
        (("--nodes", "0"), "0 nodes"),
        (("--network", "10.7.0.0"), "--network"),
        (("--masters", "3", "--network", "10.7.0.0/22"), "5 nodes"),
        (("--masters", "2"), "--masters 2"),
    ],
)
async def test_what_cannot_be_is_refused_before_kubernetes_is_built(
    words: tuple[str, ...], text: str
) -> None:
    """That takes up to 20 minutes."""
    before = Told.made
    with pytest.raises(UsageError, match=text):
        await run(Labs(), "up", "--control-plane", "kubernetes", *words)
    assert Told.made == before


async def test_an_image_that_only_a_registry_has_is_refused() -> None:
    """The masters would wait for it for five minutes, and have no way out to one."""

    class Reference:
        async def get(self, image: str, *_: str) -> Hyperkube:
            """Named, and not in this machine's Docker."""
            return Hyperkube(image, Version(1, 20), None, None)

    class Named(Application):
        def _source(self) -> Any:
            return Reference()

    words = ("--control-plane", "kubernetes", "--hyperkube-image", "h:v1.20.2")
    args = cli.parse(["lab", "up", *words], "1")
    with pytest.raises(UsageError, match="docker pull"):
        await Named(Labs(), None, Quiet()).up(args)  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [("--nodes", "2"), ("--control-plane", "embedded"),
    ("--network", "10.9.0.0/16"), ("--masters", "1")])  # fmt: skip
async def test_a_kept_lab_boots_as_it_was_or_not_at_all(words: tuple[str, ...]) -> None:
    """With the way to another one."""
    assert await run(Labs(kept=True), "up", "--json", "--name", "x") == [("resume", "x")]
    with pytest.raises(UsageError, match=rf"leave out {words[0]}.*down --name x"):
        await run(Labs(kept=True), "up", "--name", "x", *words)


async def test_down_keeps_only_when_asked_to() -> None:
    """Keeping is the exception."""
    assert await run(Labs(), "down", "--name", "x") == [("down", "x")]
    assert await run(Labs(), "down", "--name", "x", "--keep") == [("halt", "x")]
