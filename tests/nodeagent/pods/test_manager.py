"""Which pods get a worker, and which are only left over."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from nodeagent.pods.manager import Wanted
from nodeagent.pods.model import Pod
from tests.fakes.docker_world import Program
from tests.nodeagent.pods.agent import Agent, Cluster, Engine, make_pod, new_cluster, static_pod
from tests.support.virtual import run


def _begin() -> tuple[Cluster, Agent]:
    cluster = new_cluster()
    return cluster, Agent(cluster, Engine(cluster.world))


def test_a_static_pod_runs_beside_a_pod_of_the_api_server_of_the_same_name() -> None:
    async def main() -> None:
        cluster, agent = _begin()
        cluster.put(make_pod("web"))
        await asyncio.sleep(5)
        static = static_pod("web", "1")
        cluster.static[static.uid] = static
        cluster.tell()
        await asyncio.sleep(5)
        assert cluster.running(static.uid) == ["app"]
        assert cluster.running("uid-web") == ["app"]
        await agent.stop()

    run(main())


def test_containers_of_nobody_go_only_when_all_sources_have_listed() -> None:
    async def main() -> None:
        cluster, agent = _begin()
        cluster.put(make_pod("web"))
        cluster.put(make_pod("old"))
        await asyncio.sleep(5)
        cluster.api.pop("uid-old")
        await agent.stop()
        cluster.go_away()
        successor = Agent(cluster, agent.engine.successor())
        await asyncio.sleep(600)
        assert not successor.manager.all_listed
        assert (cluster.running("uid-web"), cluster.running("uid-old")) == (["app"], ["app"])
        cluster.come_back()
        await asyncio.sleep(30)
        assert (cluster.running("uid-web"), cluster.running("uid-old")) == (["app"], [])
        await successor.stop()

    run(main())


def test_an_api_server_that_is_away_for_an_hour_stops_nothing_and_hears_all_afterwards() -> None:
    async def main() -> None:
        cluster, agent = _begin()
        for name in ("web", "crash", "gone"):
            cluster.put(make_pod(name, f"c-{name}"))
        await asyncio.sleep(5)
        cluster.delete("uid-gone", grace=1)
        cluster.go_away()
        await asyncio.sleep(1800)
        cluster.world.exit(cluster.world.find("c-crash")[0].id, 1)
        await asyncio.sleep(1800)
        assert cluster.running("uid-web") == ["c-web"]
        assert cluster.running("uid-crash") == ["c-crash"]
        assert cluster.running("uid-gone") == []
        assert cluster.status("uid-crash")["containerStatuses"][0]["restartCount"] == 0
        cluster.come_back()
        await asyncio.sleep(5)
        assert sorted(cluster.api) == ["uid-crash", "uid-web"]
        assert cluster.status("uid-crash")["containerStatuses"][0]["restartCount"] == 1
        await agent.stop()

    run(main())


def test_a_pod_that_is_made_anew_under_its_name_runs_while_the_old_one_ends() -> None:
    async def main() -> None:
        cluster, agent = _begin()
        cluster.world.run("app", Program(ignores=frozenset({"TERM"})))
        cluster.put(make_pod("web", termination_grace_period_seconds=60))
        await asyncio.sleep(5)
        old = cluster.api.pop("uid-web")
        meta = msgspec.structs.replace(old.metadata, uid="uid-new")
        cluster.put(msgspec.structs.replace(old, metadata=meta, status={}))
        await asyncio.sleep(5)
        assert (cluster.running("uid-web"), cluster.running("uid-new")) == (["app"], ["app"])
        await asyncio.sleep(120)
        assert (cluster.running("uid-web"), cluster.running("uid-new")) == ([], ["app"])
        assert "uid-new" in cluster.api
        await agent.stop()

    run(main())


def test_an_agent_that_is_begun_anew_in_the_middle_of_a_deletion_goes_on_with_it() -> None:
    async def main() -> None:
        cluster, agent = _begin()
        cluster.world.run("app", Program(ignores=frozenset({"TERM"})))
        cluster.put(make_pod("web"))
        await asyncio.sleep(5)
        cluster.delete("uid-web", grace=20)
        await asyncio.sleep(2)
        successor = await agent.next()
        await asyncio.sleep(2)
        assert cluster.running("uid-web") == ["app"]
        await asyncio.sleep(30)
        assert cluster.api == {}
        assert cluster.world.containers == {}
        await successor.stop()

    run(main())


def test_a_deletion_without_grace_ends_a_pod_at_once() -> None:
    async def main() -> None:
        cluster, agent = _begin()
        cluster.world.run("app", Program(ignores=frozenset({"TERM"})))
        cluster.put(make_pod("web", termination_grace_period_seconds=600))
        await asyncio.sleep(5)
        cluster.delete("uid-web", grace=600)
        await asyncio.sleep(5)
        assert cluster.running("uid-web") == ["app"]
        cluster.delete("uid-web", grace=0)
        await asyncio.sleep(1)
        assert cluster.api == {}
        await agent.stop()

    run(main())


def test_two_hundred_pods_begin_and_end_and_leave_nothing_in_memory() -> None:
    async def main() -> None:
        cluster, agent = _begin()
        for number in range(200):
            cluster.put(make_pod(f"p{number}", "a", inits=("init",) if number % 5 == 0 else ()))
        cluster.world.run("init", Program(exits=0))
        await asyncio.sleep(30)
        assert all(pod.status["phase"] == "Running" for pod in cluster.api.values())
        for uid in tuple(cluster.api):
            cluster.delete(uid, grace=1)
        await asyncio.sleep(30)
        assert cluster.api == {}
        manager = agent.manager
        held = (manager.workers, manager._tasks, manager._given, manager._retired, manager._told)
        assert [len(one) for one in held] == [0, 0, 0, 0, 0]
        assert cluster.world.broken == []
        await agent.stop()

    run(main(), turns=400_000)


def test_debug_containers_that_are_added_to_a_pod_are_refused_in_an_event_once() -> None:
    async def main() -> None:
        cluster, agent = _begin()
        pod = make_pod("web")
        spec: dict[str, Any] = {"containers": [{"name": "app", "image": "app:1"}]}
        items = {"uid-web": Wanted(pod, lambda: spec)}

        class Source:
            listed = True

            def wanted(self) -> Mapping[str, Wanted]:
                return dict(items)

        agent.manager._sources = (Source(),)
        agent.manager.changed()
        await asyncio.sleep(5)
        assert cluster.running("uid-web") == ["app"]
        spec["ephemeralContainers"] = [{"name": "debug", "image": "busybox"}]
        for number in range(3):
            meta = msgspec.structs.replace(pod.metadata, resource_version=str(number))
            items["uid-web"] = Wanted(msgspec.structs.replace(pod, metadata=meta), lambda: spec)
            agent.manager.changed()
            await asyncio.sleep(1)
        told = [text for reason, text in cluster.events if reason == "UnsupportedPodSpec"]
        assert len(told) == 1
        assert "ephemeralContainers" in told[0]
        assert cluster.running("uid-web") == ["app"]
        await agent.stop()

    run(main())


def test_a_pod_that_was_confirmed_gone_and_has_containers_again_is_cleared_once_more() -> None:
    """A call to Docker of which nobody knew the outcome was carried out after all."""

    async def main() -> None:
        cluster, agent = _begin()
        cluster.put(make_pod("web"))
        await asyncio.sleep(5)
        config, name = cluster.world.find("app")[0].config, cluster.world.find("app")[0].name
        kept: dict[str, Pod] = {}

        class Api:
            listed = True

            def wanted(self) -> Mapping[str, Wanted]:
                # Somebody's finalizer keeps the object.
                found = {**kept, **cluster.api}
                return {uid: Wanted(pod, dict, checked=True) for uid, pod in found.items()}

        agent.manager._sources = (Api(),)
        cluster.delete("uid-web", grace=1)
        kept.update(cluster.api)
        await asyncio.sleep(5)
        assert cluster.world.containers == {}
        config = {**config, "HostConfig": {}}
        made = cluster.world.create(name, config)
        cluster.world.containers[made].status = "running"
        cluster.world.emit("start", cluster.world.containers[made])
        await asyncio.sleep(60)
        assert cluster.world.containers == {}
        await agent.stop()

    run(main())
