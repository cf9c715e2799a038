"""The manifest source on real folders, with a clock of our own or with the kernel's notices."""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from hostkit.problems import Problems
from nodeagent.sources import files as files_module
from nodeagent.sources.book import GONE, LOOKS, SETTLE
from nodeagent.sources.files import MISSING, ManifestSource
from tests.nodeagent.sources.made import fine, text


class World:
    """A folder, its source, and what it said."""

    def __init__(self, root: Path, memory: bool = False, name: str = "manifests") -> None:
        self.path = root / name
        self.memory = root / "memory" / "static.json" if memory else None
        self.now = 0.0
        self.problems = Problems()
        self.changes = 0
        self.changed = asyncio.Event()
        self.told: Callable[[], None] = lambda: None
        self.source = self.again()

    def again(self) -> ManifestSource:
        """The source of an agent that starts."""
        self.source = ManifestSource(
            self.path, "n", self._on_change, self.problems, check=fine, memory=self.memory,
            clock=lambda: self.now, now=lambda: "2026-01-01T00:00:00Z",
        )  # fmt: skip
        return self.source

    def _on_change(self) -> None:
        self.changes += 1
        self.changed.set()
        self.told()

    def put(self, name: str, content: str) -> None:
        self.path.mkdir(exist_ok=True)
        (self.path / name).write_text(content)

    async def look(self, wait: float = 0.0) -> float:
        self.now += wait
        self.source.poke()
        return await self.source.look()

    @property
    def names(self) -> set[str]:
        return {one.pod.metadata.name for one in self.source.pods.values()}

    def is_listed(self) -> bool:
        return self.source.listed

    def problem(self, key: str) -> str:
        return next((one.text for one in self.problems.all() if one.key == key), "")

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self.changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.changed.wait(), 0.5)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_pods_are_known_after_the_first_look_and_a_change_is_told_once(
    world: World,
) -> None:
    world.put("a.yaml", text("x"))
    assert (world.source.listed, await world.look()) == (False, 20.0)
    assert (world.source.listed, world.names, world.changes) == (True, {"x-n"}, 1)
    await world.look(5)
    assert world.changes == 1
    (pod,) = world.source.pods.values()
    assert pod.pod.metadata.annotations["kubernetes.io/config.seen"] == "2026-01-01T00:00:00Z"


async def test_an_empty_folder_is_listed(world: World) -> None:
    world.path.mkdir()
    await world.look()
    assert (world.source.listed, world.changes, world.problems.all()) == (True, 1, ())


async def test_errors_are_problems_by_file_until_they_are_mended(world: World) -> None:
    world.put("a.yaml", "kind: Pod\n---\n5")
    assert await world.look() == SETTLE
    assert not world.source.listed, "a file that is half written may hold a pod that runs"
    await world.look(SETTLE)
    assert world.is_listed()
    assert "line 1: apiVersion: is missing" in world.problem("manifest file a.yaml")
    world.put("a.yaml", text("x"))
    await world.look()
    assert (world.problems.all(), world.source.errors) == ((), ())


async def test_a_folder_that_is_away_is_named_and_its_pods_go_on(world: World) -> None:
    world.put("a.yaml", text("x"))
    await world.look()
    world.path.rename(world.path.with_name("away"))
    assert await world.look() == MISSING
    await world.look(60)
    assert world.names == {"x-n"}
    assert "is not there; its pods go on" in world.problem("manifests")
    world.path.with_name("away").rename(world.path)
    await world.look()
    assert (world.names, world.problems.all()) == ({"x-n"}, ())


async def test_a_folder_that_was_never_there_is_not_listed(world: World) -> None:
    await world.look()
    assert not world.source.listed
    assert "is not there" in world.problem("manifests")


async def test_a_single_manifest_that_is_removed_ends_its_pods(tmp_path: Path) -> None:
    world = World(tmp_path, name="pods.yaml")
    world.path.write_text(text("x"))
    await world.look()
    assert world.names == {"x-n"}
    world.path.unlink()
    for _ in range(LOOKS):
        await world.look(GONE)
    assert (world.names, world.source.listed) == (set(), True)


async def test_broken_and_missing_manifests_go_on_over_a_restart(tmp_path: Path) -> None:
    world = World(tmp_path, memory=True)
    world.put("a.yaml", text("x"))
    world.put("b.yaml", text("y"))
    await world.look()
    before = {uid: one.pod for uid, one in world.source.pods.items()}
    assert world.memory is not None
    assert world.memory.stat().st_mode & 0o777 == 0o600

    world.path.rename(world.path.with_name("away"))
    world.again()
    await world.look()
    assert world.source.listed
    assert {uid: one.pod for uid, one in world.source.pods.items()} == before

    world.path.with_name("away").rename(world.path)
    world.put("a.yaml", "a: [")
    (world.path / "b.yaml").unlink()
    world.again()
    await world.look()
    assert not world.is_listed()
    for _ in range(LOOKS):
        await world.look(SETTLE)
    assert (world.source.listed, world.names) == (True, {"x-n"})

    world.put("a.yaml", text("x"))
    await world.look()
    world.again()
    await world.look()
    assert world.names == {"x-n"}


async def test_a_pod_whose_file_was_renamed_and_then_broken_goes_on_over_a_restart(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, memory=True)
    world.put("a.yaml", text("x"))
    await world.look()
    (world.path / "a.yaml").rename(world.path / "b.yaml")
    for _ in range(LOOKS):
        await world.look(GONE)
    world.put("b.yaml", "a: [")
    await world.look()
    world.again()
    for _ in range(LOOKS):
        await world.look(SETTLE)
    assert world.names == {"x-n"}


@pytest.mark.parametrize("content", ["", "[]", '{"a": [{"line": 1}]}', '{"a": 5}', "{}"])
async def test_a_memory_that_is_damaged_is_no_obstacle(tmp_path: Path, content: str) -> None:
    world = World(tmp_path, memory=True)
    world.put("a.yaml", text("x"))
    assert world.memory is not None
    world.memory.parent.mkdir()
    world.memory.write_text(content)
    world.again()
    await world.look()
    assert world.names == {"x-n"}


async def test_a_memory_that_cannot_be_written_is_named_and_tried_again(tmp_path: Path) -> None:
    world = World(tmp_path, memory=True)
    world.put("a.yaml", text("x"))
    (tmp_path / "memory").touch()
    await world.look()
    assert "cannot be written" in world.problem("manifest memory")
    (tmp_path / "memory").unlink()
    await world.look()
    assert not world.problem("manifest memory")


@pytest.fixture
async def running(tmp_path: Path) -> AsyncGenerator[World, None]:
    world = World(tmp_path)
    world.now = 0.0
    loop = asyncio.get_running_loop()
    world.source = ManifestSource(
        world.path, "n", world._on_change, world.problems, check=fine, every=600, clock=loop.time
    )
    task = asyncio.create_task(world.source.run())
    yield world
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_notices_bring_every_kind_of_change(running: World) -> None:
    running.path.mkdir()
    await running.until(lambda: running.source.listed)
    running.put("a.yaml", text("x"))
    await running.until(lambda: running.names == {"x-n"})
    (running.path / ".new").write_text(text("y"))
    (running.path / ".new").rename(running.path / "a.yaml")
    await running.until(lambda: running.names == {"y-n"})
    (running.path / "a.yaml").rename(running.path / "b.yaml")
    (running.path / "a.yaml").write_text(text("x"))
    await running.until(lambda: running.names == {"x-n", "y-n"})
    (running.path / "a.yaml").unlink()
    await running.until(lambda: running.names == {"y-n"})
    with (running.path / "b.yaml").open("w") as half:
        half.write(text("z")[:30])
        half.flush()
        running.source.poke()
        await running.source.look()
        assert running.names == {"y-n"}
        half.write(text("z")[30:])
    await running.until(lambda: running.names == {"z-n"})
    assert running.problems.all() == ()


async def test_a_folder_that_was_replaced_is_followed(running: World) -> None:
    running.put("a.yaml", text("x"))
    await running.until(lambda: running.names == {"x-n"})
    running.path.rename(running.path.with_name("old"))
    running.put("a.yaml", text("y"))
    await running.until(lambda: running.names == {"y-n"})
    running.put("b.yaml", text("z"))
    await running.until(lambda: running.names == {"y-n", "z-n"})


class NoQueue:
    """A kernel that gives no more queues of notices."""

    def __init__(self) -> None:
        raise OSError(24, "Too many open files")


async def test_without_notices_the_folder_is_looked_at_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "Inotify", NoQueue)
    world = World(tmp_path)
    world.path.mkdir()
    loop = asyncio.get_running_loop()
    source = ManifestSource(
        world.path, "n", world._on_change, world.problems, check=fine, every=0.05, clock=loop.time
    )
    world.source = source
    task = asyncio.create_task(source.run())
    await world.until(lambda: source.listed)
    assert "Too many open files" in world.problem("manifest notices")
    world.put("a.yaml", text("x"))
    await world.until(lambda: world.names == {"x-n"})
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_under_load_no_pod_is_half_read_and_none_that_only_moves_is_missing(
    running: World,
) -> None:
    """Files are written in pieces, put in place, renamed and removed as fast as it goes."""
    whole = {f"image-{number}" for number in range(500)}
    lost: list[set[str]] = []
    half: list[str] = []

    def churn() -> None:
        chance = random.Random(7)
        for number in range(500):
            with (running.path / "written.yaml").open("w") as file:
                content = text("written", f"image-{number}")
                at = chance.randrange(len(content))
                file.write(content[:at])
                file.flush()
                file.write(content[at:])
            for name in ("a", "b"):
                (running.path / f"{name}.yaml").rename(running.path / f"{name}-{number}.yaml")
                (running.path / f"{name}-{number}.yaml").rename(running.path / f"{name}.yaml")
            (running.path / ".new").write_text(text("other"))
            (running.path / ".new").rename(running.path / f"other-{number}.yaml")
            (running.path / f"other-{number}.yaml").unlink()

    def look() -> None:
        images = {
            one.pod.metadata.name: one.pod.spec.containers[0].image
            for one in running.source.pods.values()
        }
        if not {"a-n", "b-n"} <= images.keys():
            lost.append(set(images))
        if "written-n" in images and images["written-n"] not in whole:
            half.append(images["written-n"])

    for name in ("a", "b"):
        running.put(f"{name}.yaml", text(name))
    await running.until(lambda: running.names == {"a-n", "b-n"})
    running.told = look
    before = {uid: one.pod for uid, one in running.source.pods.items()}
    await asyncio.to_thread(churn)
    await running.until(
        lambda: (
            {one.pod.spec.containers[0].image for one in running.source.pods.values()}
            == {"nginx", "image-499"}
            and running.names == {"a-n", "b-n", "written-n"}
        )
    )
    assert (lost, half) == ([], [])
    assert all(running.source.pods[uid].pod is pod for uid, pod in before.items())
