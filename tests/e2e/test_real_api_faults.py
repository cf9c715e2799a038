"""Real kube-apiservers in trouble: who may not read them, who dies, what has no history."""

import contextlib
import itertools
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.certs import Authority
from tests.support.kubernetes import (
    NOBODY,
    PROXY_USER,
    SLICES,
    Apiserver,
    RealWorld,
    as_v1beta1,
    built,
    real_world,
    replace_file,
)
from tests.support.netns import eventually
from tests.support.services import SERVICES, Json, Node, port, slice_of
from tests.support.talk import Host

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300, func_only=True)]


@dataclass
class Scene:
    """A node that shows two API servers the token in *token*, good for as long as the secret
    first; two pods on it; and another node, whose netd does not run."""

    world: RealWorld
    node: Node
    other: Node
    token: Path
    a: Host
    b: Host
    folder: Path

    @property
    def servers(self) -> tuple[Apiserver, Apiserver]:
        first, second = self.world.servers
        return first, second

    def settle(self) -> None:
        """Wait until the node has everything that was written before."""
        self.world.settle(self.node)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("faults")
    with real_world(folder, built(pytestconfig)) as world:
        token = replace_file(folder / "token", world.token("first"))
        node = world.node("nft", world.ca, f"--kube-token-file={token}", start=False)
        node.netd.up()
        other = world.node("nft", start=False)
        yield Scene(world, node, other, token, node.pod("a"), node.pod("b"), folder)


@contextlib.contextmanager
def other_netd(scene: Scene, *options: str) -> Iterator[Node]:
    """The other node, with a netd that is started with *options* and leaves nothing behind."""
    netd = scene.other.netd
    netd.options = options
    netd.start()
    try:
        yield scene.other
    finally:
        netd.kill()
        assert netd.command("cleanup").returncode == 0


@dataclass
class Stream:
    """Connections of *clients* to *address*, one after the other, until stopped."""

    clients: tuple[Host, ...]
    address: str
    made: int = 0
    failed: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Stream":
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        for client in itertools.cycle(self.clients):
            # So many connections in a second as the other processes leave time for.
            if self._stop.wait(0.005):
                return
            try:
                client.ask(self.address, 80)
                self.made += 1
            except OSError as error:
                self.failed.append(f"{client.name}: {error!r}")

    def goes_on(self) -> None:
        """Wait for more connections; none may have failed."""
        so_far = self.made
        eventually(lambda: self.failed or self.made > so_far + 20, "more connections")
        assert self.failed == []


def trouble(node: Node, words: str) -> str:
    """What the status says of the API server, once it holds *words*."""

    def of(document: Json) -> str:
        found = [one["text"] for one in document["problems"] if one["key"] == "api"]
        return found[0] if found and words in found[0] else ""

    return of(node.netd.wait(lambda document: bool(of(document)), f"a problem with {words!r}"))


def serves(node: Node, address: str, name: str) -> bool:
    """Whether *name* alone answers the node at *address*."""
    return node.servers(address, 80, count=4) == {name}


def test_a_user_without_permission_is_named_and_no_rule_is_touched_until_it_may(
    scene: Scene,
) -> None:
    web = scene.world.service("permitted", [scene.a])
    token = replace_file(scene.folder / "nobody", NOBODY)
    with other_netd(scene, scene.world.ca, f"--kube-token-file={token}") as node:
        text = trouble(node, "forbidden")
        assert 'User "nobody" cannot list resource' in text
        assert not any(name.startswith("KUBE-") for name in node.chains())
        said = node.netd.command("status")
        assert said.returncode == 4
        assert "cannot list resource" in " ".join(said.stdout.split())
        scene.world.permit({"kind": "User", "name": "nobody"})
        node.netd.wait_ready()
        node.netd.wait(
            lambda s: not [one for one in s["problems"] if one["key"] == "api"], "no problem"
        )
        eventually(lambda: serves(node, web.ip, "a"), "its service")


def test_a_worthless_token_is_named_and_a_new_one_in_its_file_is_used(scene: Scene) -> None:
    token = replace_file(scene.folder / "revoked", scene.world.token("revoked"))
    scene.world.revoke("revoked")
    with other_netd(scene, scene.world.ca, f"--kube-token-file={token}") as node:
        assert "Unauthorized" in trouble(node, "401")
        replace_file(token, scene.world.token("renewed"))
        node.netd.wait_ready()


def test_a_server_whose_authority_is_not_ours_is_named(scene: Scene) -> None:
    """And a client certificate of an authority that the server does not know."""
    other = Authority(scene.folder / "other", "other-ca")
    with other_netd(
        scene, f"--kube-cafile={other.cert}", f"--kube-token-file={scene.token}"
    ) as node:
        assert str(other.cert) in trouble(node, "certificate")
    pair = other.issue("stranger", cn=PROXY_USER, usage="clientAuth")
    flags = (f"--kube-certfile={pair.cert}", f"--kube-keyfile={pair.key}")
    with other_netd(scene, scene.world.ca, *flags) as node:
        assert "Unauthorized" in trouble(node, "401")


def test_a_killed_server_is_replaced_and_used_again_when_it_is_back(scene: Scene) -> None:
    """Under a stream of connections; meanwhile the token has been replaced and revoked."""
    first, second = scene.servers
    web = scene.world.service("web", [scene.a])
    moving = scene.world.service("moving", [scene.a])
    scene.settle()
    scene.node.netd.wait(
        lambda s: s["services"]["api"]["server"] == first.url, "the first server", deadline=90
    )
    scene.world.outside.ns.run(f"ip route add {web.ip} via {scene.node.address}")
    with Stream((scene.node, scene.b, scene.world.outside), web.ip) as stream:
        stream.goes_on()
        replace_file(scene.token, scene.world.token("second"))
        scene.world.revoke("first")
        first.kill()
        scene.world.endpoints("moving", [scene.b])
        eventually(lambda: serves(scene.node, moving.ip, "b"), "a change by the second server")
        # Each kind of objects has a connection of its own: others may come later.
        scene.node.netd.wait(
            lambda s: (s["services"]["api"]["server"], s["services"]["api"]["connected"])
            == (second.url, True), "all from the second server",
        )  # fmt: skip
        stream.goes_on()

        first.start()
        first.wait_ready()
        scene.node.netd.wait(
            lambda s: s["services"]["api"]["server"] == first.url, "the return", deadline=90
        )
        second.kill()
        scene.world.endpoints("moving", [scene.a])
        eventually(lambda: serves(scene.node, moving.ip, "a"), "a change by the first server")
        stream.goes_on()
    second.start()
    second.wait_ready()


def test_without_servers_the_rules_stay_and_what_was_missed_arrives_afterwards(
    scene: Scene,
) -> None:
    """Changes that no server saw, in a history that etcd has dropped: the position is of no use."""
    web = scene.world.service("kept", [scene.a])
    moved, gone = scene.world.service("moved", [scene.a]), scene.world.service("gone", [scene.a])
    scene.settle()
    version = scene.world.api.do("GET", SERVICES)["metadata"]["resourceVersion"]
    slices = scene.world.api.do("GET", f"{SLICES}/moved-x")
    before = scene.node.rules()
    with Stream((scene.node, scene.b), web.ip) as stream:
        scene.world.api.kill()
        assert "no API server answers" in trouble(scene.node, "no API server")
        stream.goes_on()
        assert scene.node.rules() == before
        fresh = as_v1beta1(slice_of("moved", [scene.b], [port(8080)]))
        slices["metadata"].pop("resourceVersion")
        write(scene, "endpointslices/default/moved-x", {**slices, "endpoints": fresh["endpoints"]})
        scene.world.etcd.ctl("del", "/registry/services/specs/default/gone")
        scene.world.etcd.compact()
        assert scene.node.rules() == before
        scene.world.api.start()
        assert first_event(scene.servers[0], version)["object"]["code"] == 410
        eventually(lambda: serves(scene.node, moved.ip, "b"), "what was missed")
        eventually(lambda: f" {gone.ip}/32" not in "\n".join(scene.node.rules()), "its end")
        assert serves(scene.node, web.ip, "a")
        stream.goes_on()
    scene.node.netd.wait(lambda s: s["services"]["api"]["connected"], "all is well")
    scene.settle()


def write(scene: Scene, key: str, obj: Json) -> None:
    """Write *obj* straight into etcd, as the API servers keep it."""
    scene.world.put({key: obj})


def first_event(server: Apiserver, version: str) -> Json:
    """What a watch of services from *version* says first."""
    path = f"{SERVICES}?watch=true&resourceVersion={version}"
    with server.call.open("GET", path) as answer:
        event: Json = json.loads(answer.readline())
        return event


def stored(name: str, number: int, spec: Json, **meta: object) -> Json:
    """A Service as it stands in etcd; *number* tells its address, which no other service can
    get, and the minute of its birth."""
    ip = spec.get("clusterIP", f"10.96.0.{number}")
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {
            "name": name, "namespace": "default", "uid": f"00000000-0000-0000-0000-{number:012}",
            "creationTimestamp": f"2020-01-01T00:{number:02}:00Z", **meta,
        },
        "spec": {"type": "ClusterIP", "sessionAffinity": "None", "clusterIP": ip,
                 "clusterIPs": [ip], **spec},
        "status": {"loadBalancer": {}},
    }  # fmt: skip


def test_objects_that_no_server_should_hold_are_named_and_the_others_work(scene: Scene) -> None:
    """They stand in etcd all the same, and the API server hands them on."""
    plain = {"port": 80, "protocol": "TCP", "targetPort": 80}
    shared = {"type": "NodePort", "clusterIP": "10.96.0.40",
              "ports": [plain | {"nodePort": 31_999}]}  # fmt: skip
    bad: dict[str, Json] = {
        "port": {"ports": [plain | {"port": 70_000}]},
        "negative": {"ports": [plain | {"port": -1}]},
        "protocol": {"ports": [plain | {"protocol": "TCP -j ACCEPT"}]},
        "address": {"clusterIP": "10.0.0.999", "ports": [plain]},
        "port-name": {"ports": [plain | {"name": 'a"\nCOMMIT\n*nat\n-F'}]},
        "Bad_Name": {"ports": [plain]},
        "no-ports": {"ports": []},
    }
    objects = {
        name: stored(name, number, spec) for number, (name, spec) in enumerate(bad.items(), 1)
    }
    long = {"text": "\x07" + "x" * 65_536}
    objects["annotated"] = stored("annotated", 20, {"ports": [plain]}, annotations=long)
    objects["older"], objects["younger"] = (
        stored("older", 30, shared),
        stored("younger", 31, shared),
    )
    good = {"annotated", "older"}
    keys = {name: f"services/specs/default/{name}" for name in objects}
    scene.world.put({keys[name]: obj for name, obj in objects.items()})
    for name in ("annotated", "older"):
        scene.world.endpoints(name, [scene.a])
    scene.world.endpoints("younger", [scene.b])
    scene.settle()
    listed = scene.world.api.do("GET", SERVICES)["items"]
    assert objects.keys() <= {one["metadata"]["name"] for one in listed}

    skipped = scene.node.skipped()
    rules = "\n".join(scene.node.rules())
    for name in objects.keys() - good:
        named = [text for key, text in skipped.items() if name in key]
        assert named, f"{name} is not named: {skipped}"
        assert all(text.isprintable() for text in named)
        assert f"default/{name}:" not in rules
    assert not [key for key in skipped if "annotated" in key]
    assert serves(scene.node, "10.96.0.20", "a")
    assert serves(scene.node, "10.96.0.40", "a"), "the oldest has the address"
    assert scene.world.outside.ask(scene.node.address, 31_999).server == "a"

    for key in keys.values():
        scene.world.etcd.ctl("del", f"/registry/{key}")
    scene.settle()
    assert scene.node.skipped() == {}
