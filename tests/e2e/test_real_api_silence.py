"""A real kube-apiserver whose host dies without a word: the agents go on at another one.

No reset and no end of a connection tells them; what they are waiting for just never comes. The
figures are printed; what is judged is who told them, the kernel at once or a deadline at last.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from nodeagent.node.lease import LEASES
from tests.support.kubernetes import RealWorld, built, real_world, replace_file
from tests.support.netns import eventually
from tests.support.realnode import NODE, PATIENCE, RealNode, condition, pod
from tests.support.services import CONTROL
from tests.support.silence import silenced, told_by_the_kernel

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300, func_only=True)]


def seconds(since: float, holds: Callable[[], Any], what: str) -> float:
    """How many seconds after *since*, on the monotonic clock, *holds* became true."""
    eventually(holds, what, deadline=PATIENCE, interval=0.02)
    return time.monotonic() - since


def show(what: str, taken: float) -> None:
    """Tell the reader of the test's output."""
    print(f"{what}: {taken:.2f} s")  # noqa: T201 - the figure that the test is about


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[RealWorld]:
    with real_world(tmp_path_factory.mktemp("silence"), built(pytestconfig)) as made:
        yield made


def test_netd_follows_services_at_another_server(world: RealWorld) -> None:
    """Its watches were idle; for the change that follows nobody waits for the dead host again."""
    token = replace_file(world.directory / "token", world.token("first"))
    node = world.node("nft", world.ca, f"--kube-token-file={token}", start=False)
    node.netd.up()
    one, other = node.pod("one"), node.pod("other")
    web = world.service("web", [one])
    world.settle(node)
    node.netd.wait(
        lambda s: s["services"]["api"]["server"] == world.servers[0].url, "the first server",
        deadline=90,
    )  # fmt: skip

    def answers(name: str) -> bool:
        return node.servers(web.ip, 80, count=2) == {name}

    # Until the watches are idle: no connection has anything under way.
    eventually(lambda: answers("one"), "the service", deadline=PATIENCE)
    before, server = node.netd.log, world.servers[0].url
    with silenced(world.fabric.bridge, CONTROL):
        since = time.monotonic()
        world.endpoints("web", [other])
        show("netd, a change", seconds(since, lambda: answers("other"), "it"))
        # Each kind of objects has a connection of its own: others may come later.
        node.netd.wait(
            lambda s: (s["services"]["api"]["server"], s["services"]["api"]["connected"])
            == (world.servers[1].url, True), "all from the other server",
        )  # fmt: skip
        paid = told_by_the_kernel(node.netd.log.removeprefix(before), server)
        since = time.monotonic()
        world.endpoints("web", [one])
        show("netd, the next", seconds(since, lambda: answers("one"), "it"))
        assert told_by_the_kernel(node.netd.log.removeprefix(before), server) == paid


def test_nodeagent_runs_and_reports_pods_at_another_server(node: RealNode) -> None:
    """Pods come and go at that moment, so that requests are on their way and unanswered.

    For the pod that comes next nobody waits for the dead host again.
    """
    for name in ("before-1", "before-2"):
        node.make("pods", pod(name))
    for name in ("before-1", "before-2"):
        node.ready(name)
    kept = node.containers("before-1")
    began = time.monotonic()
    node.make("pods", pod("alone"))
    node.ready("alone")
    show("nodeagent, a pod without trouble", time.monotonic() - began)
    node.make("pods", pod("midway"))
    node.kubectl("delete", "pod", "before-2", "--wait=false")
    before, server = node.log(), node.servers[0].url
    with silenced(node.space, node.servers[0].call.address):
        since, wall = time.monotonic(), datetime.now(UTC)
        node.make("pods", pod("after"))
        taken = first_times(
            since,
            {
                "a pod is taken up": lambda: node.get("pods", "after")["status"].get("startTime"),
                "the lease is renewed": lambda: renewed(node) > wall,
                "a pod is ready": lambda: is_ready(node, "after"),
                "a pod that was on its way is ready": lambda: is_ready(node, "midway"),
                "a pod on its way out is gone": lambda: not node.get("pods", "before-2"),
            },
        )
        for what, when in taken.items():
            show(f"nodeagent, {what}", when)
        # The watch of services has a connection of its own, and may pay later.
        eventually(
            lambda: all(
                f" {watch}: API server {server}:" in node.log().removeprefix(before)
                for watch in ("api pods", "api services")
            ),
            "both watches moved",
        )
        paid = told_by_the_kernel(node.log().removeprefix(before), server)
        began = time.monotonic()
        node.make("pods", pod("next"))
        taken = first_times(
            began, {"next": lambda: node.get("pods", "next")["status"].get("startTime")}
        )
        show("nodeagent, the next pod is taken up", taken["next"])
        assert told_by_the_kernel(node.log().removeprefix(before), server) == paid
    assert node.containers("before-1") == kept


def first_times(since: float, holding: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """When each of *holding* was true first, in seconds after *since*."""
    found: dict[str, float] = {}

    def look() -> bool:
        for what, holds in holding.items():
            if what not in found and holds():
                found[what] = time.monotonic() - since
        return len(found) == len(holding)

    eventually(look, f"all of {list(holding)}", deadline=PATIENCE, interval=0.02)
    return found


def is_ready(node: RealNode, name: str) -> bool:
    """Whether the API shows the pod as ready."""
    return condition(node.get("pods", name), "Ready") == "True"


def renewed(node: RealNode) -> datetime:
    """When the node's lease was renewed last."""
    return datetime.fromisoformat(node.api.do("GET", f"{LEASES}/{NODE}")["spec"]["renewTime"])
