"""Unused images go, the oldest first, until the disk is low enough; used ones never."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.docker.api import Image
from nodeagent.docker.imagegc import ImageGC
from nodeagent.docker.imageplan import Marks, plan, unused_since
from nodeagent.errors import EngineConflict, EngineError
from tests.fakes.docker import FakeEngine
from tests.nodeagent.docker.support import Notes


@dataclass
class Blocks:
    """What ``statvfs`` answers."""

    f_blocks: int
    f_bavail: int


class Setup:
    """A disk of 100 blocks of which each image takes as many as its size."""

    def __init__(self, *sizes: int, other: int = 0) -> None:
        self.engine = FakeEngine()
        self.notes = Notes()
        self.now = 0.0
        self.other = other
        self.in_use: set[str] = set()
        self.ids = [
            self.engine.world.add_image(f"app:{n}", size=size).id for n, size in enumerate(sizes)
        ]
        self.gc = ImageGC(
            self.engine,
            lambda: self.in_use,
            self.notes,
            statvfs=self.statvfs,
            clock=lambda: self.now,
        )

    def statvfs(self, root: str) -> Blocks:
        used = sum(one.size for one in self.engine.world.images.values()) + self.other
        return Blocks(100, 100 - used)

    async def later(self, seconds: float = 300.0) -> None:
        self.now += seconds
        await self.gc.step()

    @property
    def left(self) -> list[int]:
        return [n for n, one in enumerate(self.ids) if one in self.engine.world.images]


async def test_nothing_goes_below_the_high_mark() -> None:
    setup = Setup(40, 40)
    for _ in range(5):
        await setup.later()
    assert setup.left == [0, 1]


async def test_no_more_goes_than_is_needed_and_the_longest_unused_first() -> None:
    setup = Setup(30, 30, 30)
    setup.in_use = {setup.ids[0], setup.ids[2]}
    await setup.gc.step()
    setup.in_use = {setup.ids[0]}
    await setup.later()
    assert setup.left == [0, 2]


async def test_the_first_look_removes_nothing() -> None:
    setup = Setup(50, 40)
    await setup.gc.step()
    await setup.later(119)
    assert setup.left == [0, 1]
    await setup.later(1)
    assert len(setup.left) == 1


async def test_a_clock_step_of_the_wall_is_of_no_concern_only_time_unused_counts() -> None:
    setup = Setup(90)
    await setup.gc.step()
    setup.in_use = {"app:0"}
    await setup.later()
    setup.in_use = set()
    await setup.later()
    assert setup.left == [0]
    await setup.later()
    assert setup.left == []


async def test_under_pressure_all_that_is_unused_for_long_goes_below_the_marks_too() -> None:
    setup = Setup(20, 20, 20)
    setup.in_use = {setup.ids[1]}
    assert not await setup.gc.reclaim()
    setup.now += 120
    assert await setup.gc.reclaim()
    assert setup.left == [1]
    assert not await setup.gc.reclaim()


async def test_under_pressure_a_docker_that_refuses_is_no_reason_to_end() -> None:
    setup = Setup(20)
    await setup.gc.reclaim()
    setup.now += 120
    setup.engine.fail_next("images", EngineError("device busy", 500))
    assert not await setup.gc.reclaim()
    assert setup.left == [0]


async def test_images_in_use_stay_and_the_operator_is_told() -> None:
    setup = Setup(50, 40)
    setup.in_use = {"docker.io/library/app:0", setup.ids[1], "Not A Name"}
    await setup.gc.step()
    await setup.later()
    assert setup.left == [0, 1]
    kind, reason, message = setup.notes.events[-1]
    assert (kind, reason) == ("Warning", "FreeDiskSpaceFailed")
    assert "90 % full" in message


async def test_one_that_cannot_be_removed_does_not_keep_the_others() -> None:
    setup = Setup(30, 30, 30)
    await setup.gc.step()
    setup.engine.fail_next("remove_image", EngineConflict("in use", 409))
    setup.engine.fail_next("remove_image", EngineError("device busy", 500))
    await setup.later()
    assert len(setup.left) == 2
    assert "FreeDiskSpaceFailed" not in setup.notes.reasons


async def test_why_nothing_could_be_removed_is_told() -> None:
    setup = Setup(90)
    await setup.gc.step()
    setup.engine.fail_next("remove_image", EngineError("device busy", 500))
    await setup.later()
    assert "device busy" in setup.notes.events[-1][2]


async def test_a_docker_that_cannot_be_asked_is_told() -> None:
    setup = Setup(90)
    setup.engine.fail_next("images", EngineError("odd", 500))
    await setup.gc.step()
    assert setup.notes.reasons == ["ImageGCFailed"]


def test_marks_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"low-threshold \(90\)"):
        Marks(high=85, low=90)


IMAGES = st.lists(
    st.builds(Image, st.integers(0, 20).map(str), size=st.integers(0, 9)), unique_by=lambda i: i.id
)
TIMES = st.dictionaries(st.integers(0, 20).map(str), st.floats(0, 1000))


@settings(max_examples=150)
@given(IMAGES, TIMES, st.floats(0, 100), st.floats(0, 2000), st.randoms())
def test_a_plan_has_only_old_unused_images_whatever_the_order(
    images: list[Image], unused: dict[str, float], usage: float, now: float, random: st.DataObject
) -> None:
    marks = Marks()
    found = plan(images, unused, usage, now, marks)
    assert set(found) <= {one.id for one in images} & set(unused)
    assert all(now - unused[one] >= marks.age for one in found)
    assert usage >= marks.high or not found
    assert [unused[one] for one in found] == sorted(unused[one] for one in found)
    random.shuffle(images)  # type: ignore[attr-defined]
    assert plan(images, unused, usage, now, marks) == found
    assert plan(images, unused, usage, now, Marks(high=100)) == ()


def test_use_begins_the_time_anew() -> None:
    image = Image("sha256:" + "1" * 64, ("a:1",))
    assert unused_since([image], [], {image.id: 5.0}, 9.0) == {image.id: 5.0}
    assert unused_since([image], ["a:1"], {image.id: 5.0}, 9.0) == {}
    assert unused_since([image], ["b:1"], {}, 9.0) == {image.id: 9.0}
    assert unused_since([], [], {image.id: 5.0}, 9.0) == {}
