"""Which pods take room when another one comes."""

import asyncio

from nodeagent.pods.model import Pod
from nodeagent.pods.observed import SANDBOX
from tests.fakes.docker_world import Program
from tests.nodeagent.pods.agent import Agent, Engine, make_pod, new_cluster
from tests.support.virtual import run


def test_a_pod_that_ended_takes_no_room_though_its_sandbox_still_runs() -> None:
    """The scheduler gives its room away at once, and a refusal would be for good."""

    async def main() -> None:
        cluster = new_cluster()
        counted: dict[str, list[str]] = {}

        def admit(pod: Pod, others: list[Pod]) -> None:
            counted[pod.metadata.name] = [one.metadata.name for one in others]

        cluster.admit = admit
        cluster.world.run("app", Program(exits=0))
        agent = Agent(cluster, Engine(cluster.world))
        cluster.put(make_pod("server", "web"))
        agent.engine.hang("remove")
        cluster.put(make_pod("job", restart_policy="Never"))
        await asyncio.sleep(5)
        assert cluster.status("uid-job")["phase"] == "Succeeded"
        assert any(one.running for one in cluster.world.find(SANDBOX, "uid-job"))
        cluster.put(make_pod("next"))
        await asyncio.sleep(1)
        assert counted["next"] == ["server"]
        await agent.stop()

    run(main())
