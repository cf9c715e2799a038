"""What a worker does besides the lives of pods in ``test_churn``: rest, races, and what hangs."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from nodeagent.docker.api import Image
from nodeagent.errors import EngineError, PodError
from nodeagent.pods.backoff import Delays
from nodeagent.pods.container import Container, Exec, Handler, Lifecycle
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import SANDBOX
from tests.fakes.docker_world import Program
from tests.nodeagent.pods.agent import (
    HOST,
    IMAGE,
    Agent,
    Cluster,
    Engine,
    make_pod,
    new_cluster,
)
from tests.support.virtual import run

SLOW = Delays(first=10.0, most=300.0)


def story(main: Callable[[Cluster, Agent], Coroutine[Any, Any, None]], **parts: Any) -> None:
    """Have *main* happen to a new cluster and its agent, with *parts* in place of the usual."""

    async def play() -> None:
        cluster = new_cluster()
        agent = Agent(cluster, Engine(cluster.world), **parts)
        await main(cluster, agent)
        await agent.stop()

    run(play())


def looks(agent: Agent, uid: str) -> list[float]:
    """The times of the looks at a pod from here on."""
    times: list[float] = []
    worker = agent.manager.workers[uid]
    usual = worker.loop._work

    async def counted() -> None:
        times.append(asyncio.get_running_loop().time())
        await usual()

    worker.loop._work = counted
    return times


# --- the sandbox's image ---


def test_the_image_of_sandboxes_is_seen_to_when_it_is_missing_and_not_asked_for_otherwise() -> None:
    asked: list[str] = []
    cluster = new_cluster()

    async def pause(pod: Pod) -> None:
        asked.append(pod.metadata.name)
        cluster.world.add_image(HOST.pause_image)

    async def play() -> None:
        agent = Agent(cluster, Engine(cluster.world), pause=pause)
        cluster.put(make_pod("one"))
        await asyncio.sleep(5)
        assert asked == []
        cluster.world.images.clear()
        cluster.world.add_image(IMAGE)
        cluster.put(make_pod("two"))
        await asyncio.sleep(5)
        assert asked == ["two"]
        assert {cluster.status(f"uid-{name}")["phase"] for name in ("one", "two")} == {"Running"}
        await agent.stop()

    run(play())


# --- a pod that needs nothing is left alone ---


@pytest.mark.parametrize("policy", ["Always", "Never"])
def test_a_pod_that_has_ended_for_good_is_looked_at_no_more_than_once_a_minute(
    policy: str,
) -> None:
    async def main(cluster: Cluster, agent: Agent) -> None:
        cluster.world.run("app", Program(exits=0 if policy == "Never" else None))
        cluster.put(make_pod("job", restart_policy=policy, active_deadline_seconds=100))
        await asyncio.sleep(90)
        if policy == "Always":
            await asyncio.sleep(30)
            assert cluster.status("uid-job")["reason"] == "DeadlineExceeded"
        else:
            assert cluster.status("uid-job")["phase"] == "Succeeded"
        times = looks(agent, "uid-job")
        await asyncio.sleep(3600)
        assert len(times) <= 61

    story(main)


def test_a_pod_whose_end_takes_long_is_not_looked_at_all_the_time() -> None:
    async def main(cluster: Cluster, agent: Agent) -> None:
        cluster.world.run("app", Program(ignores=frozenset({"TERM"})))
        cluster.put(make_pod("web", termination_grace_period_seconds=900))
        await asyncio.sleep(5)
        cluster.delete("uid-web", grace=900)
        times = looks(agent, "uid-web")
        await asyncio.sleep(600)
        assert len(times) <= 20

    story(main)


# --- races ---


def test_a_start_that_ends_while_last_words_are_read_is_not_made_again() -> None:
    images = SlowImages(takes=2.0)
    images.slow.add("once:1")

    async def main(cluster: Cluster, agent: Agent) -> None:
        world = cluster.world
        for name in ("id-of-once:1", "id-of-app:1"):
            world.add_image(name)
        world.run("once", Program(exits=0))
        world.run("fails", Program(exits=3))
        pod = with_image(make_pod("job", "once", "fails", restart_policy="OnFailure"), "once:1")
        spec = msgspec.structs.replace(
            pod.spec,
            containers=tuple(
                msgspec.structs.replace(one, termination_message_policy="FallbackToLogsOnError")
                for one in pod.spec.containers
            ),
        )
        # The look waits for the log of the one while the other's start goes on to its end.
        agent.engine.hang("logs")
        cluster.put(msgspec.structs.replace(pod, spec=spec))
        await asyncio.sleep(60)
        assert world.broken == []
        assert world.find("once")[0].starts == 1
        created = [text for reason, text in cluster.events if reason == "Created"]
        assert created.count("Created container once") == 1
        assert [text for reason, text in cluster.events if reason == "Failed"] == []

    story(main, images=images)


def test_of_two_running_instances_of_a_container_each_is_ended_once() -> None:
    async def main(cluster: Cluster, agent: Agent) -> None:
        world = cluster.world
        world.run("app", Program(ignores=frozenset({"TERM"})))
        cluster.put(make_pod("web"))
        await asyncio.sleep(5)
        (one,) = world.find("app")
        labels = dict(one.labels) | {"annotation.io.kubernetes.container.restartCount": "1"}
        twin = world.create("twin", {**one.config, "Labels": labels})
        world.containers[twin].starts = -1
        world.reported = lambda _uid, _name: -1
        world.start(world.containers[twin])
        world.broken.clear()
        cluster.delete("uid-web", grace=3)
        await asyncio.sleep(60)
        assert cluster.api == {}
        assert world.containers == {}
        terms = [subject for call, subject in world.history if call == "kill"]
        assert sorted(terms.count(each) for each in {one.id, twin}) == [2, 2]

    story(main)


# --- objects at the API server that come and go ---


def test_a_pod_that_the_api_server_does_not_list_for_a_moment_is_not_deleted_there() -> None:
    async def main(cluster: Cluster, agent: Agent) -> None:
        cluster.world.run("app", Program(ignores=frozenset({"TERM"})))
        cluster.put(make_pod("web"))
        await asyncio.sleep(5)
        pod = cluster.api.pop("uid-web")
        cluster.tell()
        await asyncio.sleep(1)
        cluster.put(pod)
        await asyncio.sleep(60)
        assert "uid-web" in cluster.api, "the agent deleted a pod that nobody had deleted"
        assert cluster.running("uid-web") == ["app"]

    story(main)


def test_a_pod_with_finalizers_stays_gone_here_until_its_object_is() -> None:
    class Sink:
        asked = 0

        def put(self, target: Pod, status: dict[str, Any]) -> None:
            """As ``StatusSink``."""

        async def confirm_gone(self, _target: Pod) -> bool:
            """The object stays: somebody else has to let go of it."""
            self.asked += 1
            return True

    sink = Sink()

    async def main(cluster: Cluster, agent: Agent) -> None:
        cluster.put(make_pod("web"))
        await asyncio.sleep(5)
        cluster.delete("uid-web", grace=1)
        await asyncio.sleep(60)
        cluster.put(msgspec.structs.replace(cluster.api["uid-web"], status={"phase": "Failed"}))
        await asyncio.sleep(600)
        assert sink.asked == 1
        assert cluster.world.containers == {}
        assert agent.manager.workers == {}
        successor = await agent.next(statuses=sink)
        await asyncio.sleep(60)
        assert cluster.world.containers == {}
        await successor.stop()

    story(main, statuses=sink)


def test_a_uid_that_can_be_no_folder_keeps_nobody_from_confirming_the_end() -> None:
    class Volumes:
        async def teardown(self, uid: str) -> None:
            """As ``Volumes.teardown`` for such a UID."""
            raise PodError("FailedMount", f"metadata.uid {uid!r} cannot be a folder", final=True)

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"{name} was asked for a pod that was refused")

    async def main(cluster: Cluster, agent: Agent) -> None:
        cluster.admit = lambda _pod, _others: ("UnsupportedPodSpec", "metadata.uid: no")
        pod = make_pod("evil")
        meta = msgspec.structs.replace(pod.metadata, uid="../..")
        cluster.put(msgspec.structs.replace(pod, metadata=meta))
        await asyncio.sleep(5)
        assert cluster.status("../..")["phase"] == "Failed"
        cluster.delete("../..")
        await asyncio.sleep(5)
        assert cluster.api == {}

    story(main, volumes=Volumes())


# --- changes of the spec ---


class SlowImages:
    """Images of which the *slow* take their time and the *missing* never come."""

    def __init__(self, takes: float = 600.0) -> None:
        self.takes = takes
        self.asked: list[str] = []
        self.ended: list[str] = []
        self.missing: set[str] = set()
        self.slow: set[str] = set()

    async def ensure(self, _pod: Pod, container: Container, _secrets: Any) -> Image:
        """As ``ImageKeeping``."""
        self.asked.append(container.image)
        try:
            if container.image in self.slow:
                await asyncio.sleep(self.takes)
            if container.image in self.missing:
                raise PodError("ErrImagePull", f"image {container.image} cannot be pulled")
        finally:
            self.ended.append(container.image)
        return Image(f"id-of-{container.image}", (container.image,), (), 1, "")


def with_image(pod: Pod, image: str) -> Pod:
    """The pod with its first container changed."""
    first, *rest = pod.spec.containers
    first = msgspec.structs.replace(first, image=image)
    spec = msgspec.structs.replace(pod.spec, containers=(first, *rest))
    return msgspec.structs.replace(pod, spec=spec)


def _images(cluster: Cluster) -> list[str]:
    return [one.config["Image"] for one in cluster.world.find("app") if one.running]


def test_an_image_that_is_mended_is_pulled_at_once_whatever_the_wait_for_the_wrong_one() -> None:
    images = SlowImages()
    images.missing.add("wrong:1")

    async def main(cluster: Cluster, agent: Agent) -> None:
        for name in ("id-of-app:1", "id-of-wrong:1"):
            cluster.world.add_image(name)
        cluster.put(with_image(make_pod("web"), "wrong:1"))
        await asyncio.sleep(100)
        waiting = cluster.status("uid-web")["containerStatuses"][0]["state"]["waiting"]
        assert waiting["reason"] == "ImagePullBackOff"
        cluster.put(with_image(cluster.api["uid-web"], "app:1"))
        await asyncio.sleep(1)
        assert _images(cluster) == ["id-of-app:1"]

    story(main, images=images, delays=SLOW)


def test_an_image_that_takes_long_is_given_up_when_another_is_wanted() -> None:
    images = SlowImages()
    images.slow.add("huge:1")

    async def main(cluster: Cluster, agent: Agent) -> None:
        for name in ("id-of-app:1", "id-of-huge:1"):
            cluster.world.add_image(name)
        cluster.put(with_image(make_pod("web"), "huge:1"))
        await asyncio.sleep(30)
        cluster.put(with_image(cluster.api["uid-web"], "app:1"))
        await asyncio.sleep(1)
        assert _images(cluster) == ["id-of-app:1"]

    story(main, images=images)


def test_a_container_is_never_made_of_an_image_that_was_fetched_for_its_former_spec() -> None:
    images = SlowImages()

    async def main(cluster: Cluster, agent: Agent) -> None:
        for name in ("id-of-old:1", "id-of-new:1"):
            cluster.world.add_image(name)
        agent.engine.hang("create")
        cluster.put(with_image(make_pod("web"), "old:1"))
        await asyncio.sleep(1)
        assert images.asked == ["old:1"]
        cluster.put(with_image(cluster.api["uid-web"], "new:1"))
        await asyncio.sleep(1)
        agent.engine.release("create")
        await asyncio.sleep(5)
        assert _images(cluster) == ["id-of-new:1"]
        assert [one.config["Image"] for one in cluster.world.find("app")] == ["id-of-new:1"]

    story(main, images=images)


def test_a_crashing_container_that_gets_another_image_starts_without_a_wait() -> None:
    images = SlowImages()

    async def main(cluster: Cluster, agent: Agent) -> None:
        for name in ("id-of-bad:1", "id-of-good:1"):
            cluster.world.add_image(name)
        cluster.world.run("app", Program(exits=1))
        cluster.put(with_image(make_pod("web"), "bad:1"))
        await asyncio.sleep(200)
        waiting = cluster.status("uid-web")["containerStatuses"][0]["state"]["waiting"]
        assert waiting["reason"] == "CrashLoopBackOff"
        cluster.world.run("app", Program())
        cluster.put(with_image(cluster.api["uid-web"], "good:1"))
        await asyncio.sleep(1)
        assert _images(cluster) == ["id-of-good:1"]

    story(main, images=images, delays=SLOW)


# --- deletion while something takes long ---


def test_a_pod_is_deleted_at_once_while_its_image_takes_ten_minutes() -> None:
    images = SlowImages()
    images.slow.add("app:1")

    async def main(cluster: Cluster, agent: Agent) -> None:
        cluster.put(make_pod("web"))
        await asyncio.sleep(30)
        cluster.delete("uid-web", grace=30)
        await asyncio.sleep(2)
        assert cluster.api == {}
        assert images.ended == images.asked, "a pull goes on that nobody waits for"

    story(main, images=images)


def test_a_pod_is_deleted_at_once_while_its_volumes_hang() -> None:
    class Volumes:
        lock = asyncio.Lock()

        async def prepare(self, _pod: Pod) -> None:
            """A file server that does not answer."""
            async with self.lock:
                await asyncio.sleep(3600)

        async def refresh(self, _pod: Pod) -> bool:
            """It waits for ``prepare``, as the real one does."""
            async with self.lock:
                return False

        async def teardown(self, uid: str) -> None:
            """As ``VolumeKeeping``."""

    async def main(cluster: Cluster, agent: Agent) -> None:
        cluster.put(make_pod("web"))
        await asyncio.sleep(100)
        cluster.delete("uid-web", grace=30)
        await asyncio.sleep(2)
        assert cluster.api == {}

    story(main, volumes=Volumes())


def test_a_dead_container_that_cannot_be_removed_keeps_the_pod_from_nothing() -> None:
    async def main(cluster: Cluster, agent: Agent) -> None:
        world = cluster.world
        cluster.put(make_pod("web", "a", "b"))
        await asyncio.sleep(5)
        (first,) = world.find("a")
        agent.engine.hang(f"remove:{first.id}")
        for _ in range(2):
            world.exit(world.find("a")[-1].id, 1)
            await asyncio.sleep(5)
        assert "remove" in agent.engine.calls
        world.exit(world.find("b")[0].id, 1)
        await asyncio.sleep(5)
        assert cluster.running("uid-web") == ["a", "b"]
        assert agent.engine.calls.count("remove") == 1
        cluster.delete("uid-web", grace=1)
        await asyncio.sleep(5)
        assert cluster.running("uid-web") == []
        agent.engine.release(f"remove:{first.id}")
        await asyncio.sleep(5)
        assert cluster.api == {}

    story(main)


def test_a_container_that_docker_does_not_remove_is_asked_for_again_ever_more_slowly() -> None:
    async def main(cluster: Cluster, agent: Agent) -> None:
        cluster.put(make_pod("web"))
        await asyncio.sleep(5)
        error = EngineError("device or resource busy", 500)
        agent.engine.fail_next("remove", error, times=1000)
        cluster.delete("uid-web", grace=1)
        await asyncio.sleep(60)
        # There are two containers.
        assert 8 <= agent.engine.calls.count("remove") <= 30
        agent.engine._failures.clear()
        await asyncio.sleep(15)
        assert cluster.api == {}

    story(main)


def test_a_sandbox_that_dies_while_an_image_is_pulled_is_replaced_at_once() -> None:
    images = SlowImages()
    images.slow.add("huge:1")

    async def main(cluster: Cluster, agent: Agent) -> None:
        cluster.world.add_image("id-of-app:1")
        pod = make_pod("web", "b", "a")
        cluster.put(with_image(pod, "huge:1"))
        await asyncio.sleep(5)
        assert cluster.running("uid-web") == ["a"]
        cluster.world.delete(cluster.world.find(SANDBOX)[0].id)
        await asyncio.sleep(10)
        assert cluster.running("uid-web") == ["a"]
        assert [one.running for one in cluster.world.find(SANDBOX)] == [True]

    story(main, images=images)


# --- the end of the agent ---


@pytest.mark.parametrize("call", ["create", "start", "containers", "inspect"])
def test_an_agent_ends_at_once_though_docker_hangs(call: str) -> None:
    async def main(cluster: Cluster, agent: Agent) -> None:
        await asyncio.sleep(1)
        cluster.put(make_pod("web"))
        agent.engine.hang(call)
        await asyncio.sleep(2)
        began = asyncio.get_running_loop().time()
        closing = asyncio.ensure_future(agent.manager.close())
        await asyncio.sleep(0.5)
        await agent.engine.close()
        await closing
        assert asyncio.get_running_loop().time() - began < 1

    story(main)


def test_an_agent_that_ends_leaves_no_hook_behind() -> None:
    async def main(cluster: Cluster, agent: Agent) -> None:
        hook = Lifecycle(pre_stop=Handler(exec=Exec(("sleep", "600"))))
        pod = make_pod("web", termination_grace_period_seconds=900)
        (one,) = pod.spec.containers
        spec = msgspec.structs.replace(
            pod.spec, containers=(msgspec.structs.replace(one, lifecycle=hook),)
        )
        cluster.put(msgspec.structs.replace(pod, spec=spec))
        await asyncio.sleep(5)
        agent.engine.hang("exec")
        cluster.delete("uid-web", grace=900)
        await asyncio.sleep(5)
        assert "exec" in agent.engine.calls
        before = asyncio.all_tasks()
        await agent.manager.close()
        left = [repr(task.get_coro()) for task in before if not task.done()]
        assert [name for name in left if "hook" in name] == []

    story(main)


def test_a_fault_of_ours_in_one_pod_harms_no_other_and_is_tried_again() -> None:
    def admit(pod: Pod, _others: list[Pod]) -> None:
        if pod.metadata.name == "odd" and odd:
            raise TypeError("unhashable type: 'list'")

    odd = ["yes"]

    async def main(cluster: Cluster, agent: Agent) -> None:
        cluster.admit = admit
        cluster.put(make_pod("odd"))
        cluster.put(make_pod("web"))
        await asyncio.sleep(5)
        assert cluster.running("uid-web") == ["app"]
        odd.clear()
        await asyncio.sleep(60)
        assert cluster.running("uid-odd") == ["app"]

    story(main)
