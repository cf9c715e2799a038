"""The pods part of the demo, on a control plane in memory."""

import io
from typing import Any

import pytest
from rich.console import Console

from lab.errors import LabError
from lab.output import Output
from lab.plan import make_lab
from lab.poddemo import DEADLINE, Healed, PodDemo, healed_sheet
from lab.servicedemo import PODS

SPEC = make_lab("x", 2, None, [])


class World:
    """One pod, and time that passes only in sleeps.

    *steps* are the times after the removal at which the container runs and is ready again.
    """

    def __init__(
        self, runs: float = 0.4, ready: float = 0.6, ready_pods: int = 1, replaced: bool = False
    ) -> None:
        self.runs, self.ready, self.ready_pods = runs, ready, ready_pods
        self.replaced = replaced
        self.now = 0.0
        self.removed: list[tuple[str, str]] = []
        self.removed_at: float | None = None

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def remove(self, node: str, container: str) -> None:
        self.removed.append((node, container))
        self.removed_at = self.now

    def pod(self) -> dict[str, Any]:
        past = None if self.removed_at is None else self.now - self.removed_at
        running = past is None or past >= self.runs
        ready = past is None or past >= self.ready
        container: dict[str, Any] = {
            "containerID": "docker://new" if past is not None and running else "docker://old",
            "state": {"running": {}} if running else {"waiting": {}},
        }
        return {
            "metadata": {
                "name": "nginx-1",
                "uid": "u2" if past is not None and self.replaced else "u1",
            },
            "spec": {"nodeName": "node2"},
            "status": {
                "containerStatuses": [container],
                "conditions": [{"type": "Ready", "status": str(ready)}],
            },
        }

    async def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        assert method == "GET"
        if path == PODS:
            return {"items": [self.pod()][: self.ready_pods]}
        if "/nodes/" in path:
            assert path.endswith("/node2")
            return {"status": {"nodeInfo": {"kubeletVersion": "1"}}}
        return self.pod()

    async def text(self, path: str) -> str:
        assert "/pods/nginx-1/log" in path
        return "GET /\nGET /\n"


async def show(world: World) -> tuple[bool, str]:
    stdout = io.StringIO()
    output = Output(Console(file=stdout), Console(file=io.StringIO()), quiet=True)
    demo = PodDemo(
        output, world.remove, connect=lambda _: world, clock=world.clock, sleep=world.sleep
    )
    return await demo.run(SPEC), stdout.getvalue()


async def test_a_container_that_comes_back_is_measured() -> None:
    """From its removal; the pod stays the same."""
    world = World()
    well, shown = await show(world)
    assert well
    assert world.removed == [("node2", "old")]
    assert "nodeagent 1" in shown
    assert "runs in 0.40 s, Ready in 0.60 s" in shown
    assert shown.rstrip().endswith("yes")


async def test_a_container_that_does_not_come_back_fails_the_demo() -> None:
    """After a while."""
    world = World(runs=DEADLINE * 2, ready=DEADLINE * 2)
    well, shown = await show(world)
    assert not well
    assert "runs in -, Ready in -" in shown
    assert world.now < DEADLINE + 1


async def test_another_pod_in_its_place_does_not_count() -> None:
    """The pod has to be healed, not replaced."""
    world = World(replaced=True)
    well, _ = await show(world)
    assert not well


async def test_without_a_pod_the_operator_is_told() -> None:
    """Nothing is removed then."""
    world = World(ready_pods=0)
    with pytest.raises(LabError, match="no pod is ready"):
        await show(world)
    assert world.removed == []


def test_the_table_tells_what_did_not_happen() -> None:
    """A pod that runs without a log is not well."""
    row = healed_sheet(Healed("p", "n", "1", 0, 0.5, 0.7)).rows[0]
    assert row == ("p on n", "nodeagent 1", "0 lines", "runs in 0.50 s, Ready in 0.70 s", "no")
