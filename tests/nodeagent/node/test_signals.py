"""Looks at the machine: what they read, and what a file system that hangs does to them."""

import asyncio
import threading
from pathlib import Path

from nodeagent.node.facts import Disk, Machine
from nodeagent.node.pressure import Level, Pressure, parse_thresholds
from nodeagent.node.signals import PressureWatch


class FakeMachine(Machine):
    """A machine whose file systems hang while ``stuck`` is not set."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path, root=tmp_path, disk=self._read)
        self.free = 50
        self.open = threading.Event()
        self.open.set()
        self.reads = 0

    def _read(self, _path: Path) -> Disk:
        self.reads += 1
        self.open.wait()
        return Disk(100, self.free, 10, 9)


def watch(machine: FakeMachine, *, patience: float = 5.0) -> PressureWatch:
    heard: list[bool] = []
    made = PressureWatch(
        Pressure(parse_thresholds("nodefs.available<10%")),
        machine,
        lambda: {"nodefs": Path("/n")},
        on_look=heard.append,
        patience=patience,
        clock=lambda: 0.0,
    )
    made_heard[made] = heard
    return made


made_heard: dict[PressureWatch, list[bool]] = {}


async def test_a_look_reads_all_signals_and_says_whether_something_changed(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    looking = watch(machine)
    await looking.look()
    assert looking.levels == {"nodefs.available": Level(50, 100), "nodefs.inodesFree": Level(9, 10)}
    machine.free = 5
    await looking.look()
    assert looking.pressure.active == {"DiskPressure"}
    await looking.look()
    assert made_heard[looking] == [False, True, False]


async def test_a_disk_that_hangs_costs_one_thread_and_is_named(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    looking = watch(machine, patience=0.5)
    machine.free = 5
    await looking.look()
    machine.open.clear()
    for _ in range(3):
        await looking.look()
    assert machine.reads == 2
    assert "/n does not answer" in looking.trouble
    assert looking.pressure.active == {"DiskPressure"}
    machine.free = 50
    machine.open.set()
    while looking.trouble:
        await looking.look()
        await asyncio.sleep(0)
    assert looking.levels["nodefs.available"] == Level(50, 100)


async def test_it_looks_again_after_each_pause(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    pauses: list[float] = []
    done = asyncio.Event()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            done.set()
            await asyncio.Event().wait()

    looking = PressureWatch(Pressure(), machine, dict, sleep=sleep)
    task = asyncio.create_task(looking.run())
    await done.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert pauses == [10.0, 10.0, 10.0]
