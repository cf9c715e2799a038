"""When a worker has the contents of a pod's volumes looked at."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from nodeagent.pods.container import Container
from nodeagent.pods.host import Mount
from nodeagent.pods.model import Pod
from tests.nodeagent.pods.agent import Agent, Engine, make_pod, new_cluster
from tests.support.virtual import run


class CountingVolumes:
    """Counts the looks at contents."""

    def __init__(self) -> None:
        self.looks = 0

    async def prepare(self, pod: Pod) -> None:
        """There is nothing to make."""

    async def mounts(
        self, pod: Pod, container: Container, attempt: int, *, pod_ip: str, env: Mapping[str, str]
    ) -> tuple[Mount, ...]:
        """There are none."""
        return ()

    async def refresh(self, pod: Pod) -> bool:
        """Count."""
        self.looks += 1
        return False

    async def teardown(self, uid: str) -> None:
        """There is nothing to remove."""


@pytest.mark.parametrize("field", ["labels", "annotations"])
def test_volumes_follow_changed_labels_and_annotations_at_once(field: str) -> None:
    """A downwardAPI volume shows them; without a change nobody looks for a minute."""

    async def main() -> None:
        cluster, volumes = new_cluster(), CountingVolumes()
        agent = Agent(cluster, Engine(cluster.world), volumes=volumes)
        cluster.put(make_pod("web"))
        await asyncio.sleep(5)
        assert volumes.looks == 0
        pod = cluster.api["uid-web"]
        change: dict[str, Any] = {field: {"colour": "blue"}}
        cluster.put(
            msgspec.structs.replace(pod, metadata=msgspec.structs.replace(pod.metadata, **change))
        )
        await asyncio.sleep(1)
        assert volumes.looks == 1
        await asyncio.sleep(10)
        assert volumes.looks == 1
        await agent.stop()

    run(main())
