"""Mirror pods against an API server in memory."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostkit.kube.errors import ApiError, KubeUnavailable, api_error
from hostkit.problems import Problems
from hostkit.reconcile import Backoff
from nodeagent.pods.model import MIRROR, Pod, decode
from nodeagent.sources.manifests import StaticPod
from nodeagent.sources.mirrorplan import Key, Seen, plan
from nodeagent.sources.mirrors import LAG, NO_NODE, Mirrors
from tests.nodeagent.sources.made import static


class Server:
    """Pods by namespace and name; *fail* makes the next calls of a method fail."""

    def __init__(self, namespaces: Sequence[str] = ("default",)) -> None:
        self.namespaces = set(namespaces)
        self.pods: dict[Key, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.faults: list[tuple[str, Exception]] = []
        self._uids = 0

    def fail(self, method: str, error: Exception) -> None:
        self.faults.append((method, error))

    def put(self, name: str, node: str = "n", **annotations: str) -> dict[str, Any]:
        self._uids += 1
        meta = {"name": name, "namespace": "default", "uid": f"u{self._uids}"}
        pod = {
            "metadata": {**meta, "annotations": annotations},
            "spec": {"nodeName": node, "containers": [{"name": "main"}]},
        }
        self.pods["default", name] = pod
        return pod

    async def request(
        self, method: str, path: str, *, params: Sequence[tuple[str, str]] = (), body: bytes | None
    ) -> bytes:
        self.calls.append(method)
        for number, (wanted, error) in enumerate(self.faults):
            if wanted == method:
                del self.faults[number]
                raise error
        parts = path.split("/")
        namespace, name = parts[4], parts[6] if len(parts) > 6 else ""
        document = json.loads(body) if body else {}
        if namespace not in self.namespaces:
            raise api_error(404, "NotFound", f'namespaces "{namespace}" not found')
        if method == "POST":
            return self._create(namespace, document)
        pod = self.pods.get((namespace, name))
        if pod is None:
            raise api_error(404, "NotFound", "not found")
        if method == "DELETE":
            if document["preconditions"]["uid"] != pod["metadata"]["uid"]:
                raise api_error(409, "Conflict", "the UID in the precondition does not match")
            assert document["gracePeriodSeconds"] == 0
            del self.pods[namespace, name]
        return json.dumps(pod).encode()

    def _create(self, namespace: str, pod: dict[str, Any]) -> bytes:
        key = namespace, pod["metadata"]["name"]
        if key in self.pods:
            raise api_error(409, "AlreadyExists", "already exists")
        self._uids += 1
        pod["metadata"] |= {"uid": f"u{self._uids}"}
        self.pods[key] = pod
        return json.dumps(pod).encode()

    @property
    def seen(self) -> dict[Key, Pod]:
        """What a watch of node ``n`` shows."""
        mine = {k: p for k, p in self.pods.items() if p["spec"].get("nodeName") == "n"}
        return {key: decode(pod) for key, pod in mine.items()}


class World:
    """A server, mirrors, and a clock."""

    def __init__(self, **how: Any) -> None:
        self.server = Server(**how)
        self.now = 0.0
        self.owner: str | None = "node-uid"
        self.problems = Problems()
        self.static: dict[str, StaticPod] = {}
        self.mirrors = Mirrors(
            self.server, "n", lambda: self.owner, self.problems,
            backoff=Backoff(1.0, 8.0, 0.0), clock=lambda: self.now,
        )  # fmt: skip

    def want(self, *pods: StaticPod) -> None:
        self.static = {one.pod.uid: one for one in pods}

    async def sync(self, wait: float = 0.0, seen: Mapping[Key, Pod] | None = None) -> float | None:
        self.now += wait
        return await self.mirrors.sync(self.static, self.server.seen if seen is None else seen)

    @property
    def shown(self) -> dict[str, str]:
        return {
            name: pod["metadata"].get("annotations", {}).get(MIRROR, "real")
            for (_, name), pod in self.server.pods.items()
        }

    @property
    def told(self) -> dict[str, str]:
        return {one.key: one.text for one in self.problems.all()}


X, OTHER_X, Y = static("x"), static("x", "other"), static("y")


async def test_a_mirror_is_made_changed_and_removed_with_its_static_pod() -> None:
    world = World()
    world.want(X)
    assert await world.sync() == LAG
    (pod,) = world.server.pods.values()
    meta = pod["metadata"]
    assert meta["annotations"] == {
        "kubernetes.io/config.source": "file",
        "kubernetes.io/config.hash": X.pod.uid,
        "kubernetes.io/config.mirror": X.pod.uid,
    }
    assert meta["ownerReferences"] == [
        {
            "apiVersion": "v1", "kind": "Node", "name": "n", "uid": "node-uid",
            "controller": True,
        }
    ]  # fmt: skip
    assert pod["spec"]["nodeName"] == "n"
    assert meta["uid"] != X.pod.uid
    assert await world.sync() is None
    world.want(OTHER_X)
    await world.sync()
    assert world.shown == {"x-n": OTHER_X.pod.uid}
    world.want()
    await world.sync()
    assert world.shown == {}
    assert await world.sync() is None


async def test_a_mirror_that_somebody_deleted_comes_back() -> None:
    world = World()
    world.want(X)
    await world.sync()
    await world.sync()
    world.server.pods.clear()
    await world.sync()
    assert world.shown == {"x-n": X.pod.uid}


async def test_a_mirror_that_is_being_deleted_is_made_anew() -> None:
    world = World()
    world.want(X)
    await world.sync()
    pod = world.server.pods["default", "x-n"]
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    await world.sync()
    assert "deletionTimestamp" not in world.server.pods["default", "x-n"]["metadata"]


async def test_while_the_watch_lags_nothing_is_written_twice() -> None:
    world = World()
    world.want(X)
    await world.sync()
    calls = len(world.server.calls)
    assert await world.sync(1, seen={}) == LAG - 1
    assert len(world.server.calls) == calls
    world.server.pods.clear()
    await world.sync(LAG, seen={})
    assert world.shown == {"x-n": X.pod.uid}


async def test_a_mirror_that_is_there_but_not_shown_yet_is_fine() -> None:
    world = World()
    world.want(X)
    world.server.put("x-n", **{MIRROR: X.pod.uid})
    await world.sync(seen={})
    assert world.server.calls == ["POST", "GET"]
    assert world.told == {}


async def test_an_older_mirror_that_is_not_shown_is_replaced_soon() -> None:
    world = World()
    world.want(X)
    world.server.put("x-n", **{MIRROR: "older"})
    wait = await world.sync(seen={})
    assert wait == 1.0
    await world.sync(wait)
    assert world.shown == {"x-n": X.pod.uid}


async def test_a_real_pod_is_never_touched_and_named() -> None:
    world = World()
    world.want(X, Y)
    world.server.put("x-n")
    world.server.put("y-n", node="far", **{MIRROR: "that of another node"})
    before = dict(world.server.pods)
    await world.sync()
    await world.sync(100)
    assert world.server.pods == before
    assert "has the name of a static pod" in world.told["mirror default/x-n"]
    assert "on node 'far'" in world.told["mirror default/y-n"]
    world.want()
    await world.sync(100)
    assert (world.server.pods, world.told) == (before, {})


async def test_without_the_uid_of_the_node_nothing_is_made_yet() -> None:
    world = World()
    world.want(X)
    world.owner = None
    assert await world.sync() == NO_NODE
    assert world.server.calls == []
    world.owner = "u"
    await world.sync()
    assert world.shown == {"x-n": X.pod.uid}


async def test_a_missing_namespace_is_named_and_tried_again_less_and_less_often() -> None:
    world = World(namespaces=())
    world.want(X)
    assert [await world.sync(wait) for wait in (0, 1, 2, 4, 8)] == [1, 2, 4, 8, 8]
    assert "namespace default is not there" in world.told["mirror default/x-n"]
    assert await world.sync(1) == 7
    world.server.namespaces.add("default")
    await world.sync(7)
    assert (world.shown, world.told) == ({"x-n": X.pod.uid}, {})


async def test_another_static_pod_is_tried_at_once() -> None:
    world = World()
    world.want(X)
    world.server.fail("POST", api_error(422, "Invalid", "spec.containers: is wrong"))
    await world.sync()
    assert "is wrong" in world.told["mirror default/x-n"]
    world.want(OTHER_X)
    await world.sync()
    assert (world.shown, world.told) == ({"x-n": OTHER_X.pod.uid}, {})


@pytest.mark.parametrize(
    "error",
    [
        KubeUnavailable({"http://a": "refused"}),
        KubeUnavailable({"http://a": "silent"}, maybe_applied=True),
        ApiError(403, "Forbidden", "no"),
        ApiError(500, "InternalError", "no"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
async def test_a_failed_call_is_repeated_and_one_mirror_does_not_block_another(
    error: Exception, method: str
) -> None:
    world = World()
    world.server.put("x-n", **{MIRROR: "older"})
    world.want(X, Y)
    world.server.fail(method, error)
    seen: dict[Key, Pod] | None = {} if method == "GET" else None
    for _ in range(3):
        wait = await world.sync(seen=seen)
        world.now += wait or 0
        seen = None
    assert world.shown == {"x-n": X.pod.uid, "y-n": Y.pod.uid}
    await world.sync()
    assert world.told == {}


NAMES = ["x", "y", "z"]
seen_pods = st.dictionaries(
    st.sampled_from([("default", f"{name}-n") for name in NAMES]),
    st.builds(
        Seen,
        uid=st.uuids().map(str),
        mirror=st.sampled_from(["", "older", *(static(name).pod.uid for name in NAMES)]),
        deleting=st.booleans(),
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.sets(st.sampled_from(NAMES)), seen_pods, st.integers(0, 6))
def test_a_plan_made_real_even_in_part_leads_to_the_mirrors_and_touches_no_real_pod(
    names: set[str], seen: dict[Key, Seen], broken_after: int
) -> None:
    pods = {one.pod.uid: one for one in map(static, names)}
    there = dict(seen)
    for change in plan(pods, there).changes[:broken_after]:
        if change.delete:
            assert there.pop(change.key).mirror
    for change in plan(pods, there).changes:
        if change.delete:
            assert there.pop(change.key).mirror
        if change.create is not None:
            assert change.key not in there
            there[change.key] = Seen("new", change.create.pod.uid)
    last = plan(pods, there)
    assert last.changes == ()
    real = {key: one for key, one in seen.items() if not one.mirror}
    assert {key: one for key, one in there.items() if not one.mirror} == real
    keys = {("default", one.pod.metadata.name) for one in pods.values()}
    assert set(there) == keys | real.keys()
    assert set(last.taken) == keys & real.keys()
