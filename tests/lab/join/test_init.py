"""``barenode init``: the steps on a host's disk, its services and its API server."""

import asyncio
import io
import json
import tomllib
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from hostkit.command import Completed
from lab.errors import BusyError, LabError, PrerequisiteError, UsageError
from lab.join import bootstrap, initcommand, record
from lab.join.bootstrap import Joined
from lab.join.firstmaster import Asked
from lab.join.hostservices import Systemd
from lab.join.images import HostImages, Image, Images, ImageWish
from lab.join.initsteps import Init, Request
from lab.join.model import RECORD_FILE, Record
from lab.join.tokens import Token
from lab.master import agents, x509
from lab.master.plane import Version
from lab.output import Output
from netd.state import State
from tests.lab.fakes import FakeRunner
from tests.lab.join.fakeapi import FakeApi, away

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
TOKEN = Token("abcdef", "0123456789abcdef")
REQUEST = Request(asked=Asked(name="master1"), token=TOKEN)
NODE = "/api/v1/nodes/master1"
TAINT = {"key": "node-role.kubernetes.io/master", "effect": "NoSchedule"}
READY = {"conditions": [{"type": "Ready", "status": "True"}]}


class Machine(FakeRunner):
    """The host's commands: one interface, and Docker is up."""

    def __init__(self) -> None:
        super().__init__()
        self.said = ""
        self.docker = True

    def answer(self, argv: list[str], stdin: str | None) -> Completed:
        """What each says."""
        if argv[0] == "ip" and self.said:
            return self.ok(argv, self.said)
        if "ps" in argv and not self.docker:
            return self.fails(argv, "Cannot connect to the Docker daemon")
        if argv[0] == "ip" and "address" in argv:
            info = {"family": "inet", "local": "198.18.0.2", "prefixlen": 24}
            return self.ok(argv, json.dumps([{"ifname": "eth0", "addr_info": [info]}]))
        if argv[0] == "ip":
            return self.ok(argv, json.dumps([{"dst": "default", "dev": "eth0"}]))
        if argv[0] == "systemctl":
            return self.ok(argv, "LoadState=loaded\nActiveState=active\n")
        return self.ok(argv, "etcd\texited\nkube-apiserver\trunning\netcd\trunning\n")


class Pictures(HostImages):
    """Images of which *there* are in Docker; what was chosen and brought is kept."""

    def __init__(self, runner: Machine, folder: Path) -> None:
        super().__init__(runner, folder, lambda _subject, _text: None)
        self.there: set[str] = set()
        self.wishes: list[ImageWish] = []

    async def choose(self, wish: ImageWish) -> Images:
        self.wishes.append(wish)
        return Images(
            Image(wish.hyperkube or "barenode/hyperkube:v1.20.2"),
            Version(1, 20),
            Image(wish.etcd or "barenode/etcd:lab"),
        )

    async def bring(self, image: Image) -> None:
        self.there.add(image.name)

    async def identity(self, name: str) -> str:
        return "sha256:1" if name in self.there else ""


class World:
    """A host that becomes a master: *root* is its disk, *api* the server once netd is up."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.machine = Machine()
        self.images = Pictures(self.machine, root / "cache")
        self.api = FakeApi()
        self.steps: list[str] = []
        self.restarts: list[bool] = []
        self.at_bring_up: Callable[[], None] = lambda: None

    def init(self, request: Request = REQUEST) -> Joined:
        """One run of the command."""
        return asyncio.run(self.steps_of().run(request))

    def steps_of(self) -> Init:
        """The command on this host."""
        return Init(
            self.machine,
            self.images,
            lambda subject, text: self.steps.append(f"{subject}: {text}"),
            root=self.root,
            bring_up=self._bring_up,
            check=self._check,
            systemd=Systemd(self.machine, booted_at=self.root),
            connect=lambda _config: self.api,
            now=lambda: NOW,
            sleep=self._sleep,
        )

    async def _check(self, *_: object, **__: object) -> Record | None:
        return record.load(self.path(RECORD_FILE))

    async def _bring_up(self, *_: object, restart: bool, **__: object) -> None:
        # The control plane must not begin before netd has its subnet and Docker its images.
        assert self.path("/var/lib/netd/state.json").exists()
        assert self.images.there
        self.restarts.append(restart)
        self.at_bring_up()
        self.api.objects.setdefault("/api/v1/namespaces/kube-public", {"metadata": {}})
        self.api.objects.setdefault(
            NODE, {"metadata": {"name": "master1"}, "spec": {"taints": [TAINT]}, "status": READY}
        )

    async def _sleep(self, _seconds: float) -> None:
        await asyncio.sleep(0)

    def path(self, path: str) -> Path:
        """Where the host's *path* is."""
        return self.root / path.lstrip("/")

    def names(self) -> tuple[str, ...]:
        """What the API's certificate is good for."""
        pem = self.path("/etc/kubernetes/pki/apiserver.crt").read_bytes()
        found = x509.wanted_of("apiserver", "ca", x509.load_certificate(pem))
        return (*found.names, *found.addresses)

    def settings(self) -> dict[str, Any]:
        """nodeagent's."""
        return tomllib.loads(self.path(agents.NODEAGENT_FILE).read_text())


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A host on which nothing was done."""
    return World(tmp_path)


def test_a_host_becomes_a_master_and_tells_how_others_join(world: World) -> None:
    """The line is whole, by this host's address and its new CA."""
    done = world.init()
    assert done.join == (
        f"barenode join 198.18.0.2:6443 --token abcdef.0123456789abcdef --ca-hash {done.ca_hash}"
    )
    assert done.ca_hash.startswith("sha256:")
    assert done.expires == "2026-11-22T12:00:00Z"
    known = record.load(world.path(RECORD_FILE))
    assert known is not None
    assert (known.role, known.name, known.ca_hash) == ("master", "master1", done.ca_hash)
    assert known.at == NOW.timestamp()


def test_the_operators_own_settings_are_not_touched(world: World) -> None:
    """The cluster's lie in conf.d."""
    for path in ("/etc/netd/netd.toml", "/etc/nodeagent/nodeagent.toml"):
        world.path(path).parent.mkdir(parents=True)
        world.path(path).write_text("# mine\n")
    world.init()
    assert world.path("/etc/netd/netd.toml").read_text() == "# mine\n"
    assert world.settings()["hostname-override"] == "master1"


def test_manifests_come_after_images_and_services(world: World) -> None:
    """nodeagent would wait for an image that is being loaded."""
    manifests = world.path("/etc/kubernetes/manifests")
    world.at_bring_up = lambda: seen.append(manifests.exists())
    seen: list[bool] = []
    world.init()
    assert seen == [False]
    assert (manifests / "kube-apiserver.yaml").exists()


def test_a_second_run_changes_nothing_but_gives_another_token(world: World) -> None:
    """And restarts no daemon, since none has to read anything again."""
    first = world.init()
    objects = set(world.api.objects)
    world.api.calls.clear()
    second = world.init(Request(token=Token("fedcba", "0123456789abcdef"), ttl=None))
    assert second.ca_hash == first.ca_hash
    assert second.expires == ""
    assert set(world.api.objects) - objects == {
        "/api/v1/namespaces/kube-system/secrets/bootstrap-token-fedcba"
    }
    assert [method for method, _ in world.api.calls if method != "GET"] == ["POST"]
    assert world.restarts == [True, False]


def test_a_second_run_keeps_images_and_names_of_the_first(world: World) -> None:
    """Given once, they need not be given again; more names may come."""
    wish = ImageWish(hyperkube="example.org/hyperkube:v1.20.9", etcd="example.org/etcd:3.4")
    world.init(replace(REQUEST, images=wish, names=("api.example.org",)))
    world.init(replace(REQUEST, names=("192.0.2.1",)))
    assert world.images.wishes[1] == wish
    assert {"api.example.org", "192.0.2.1", "master1", "198.18.0.2"} <= set(world.names())


def test_an_image_that_docker_lost_is_made_anew(world: World) -> None:
    """Rather than pulled from where it never was."""
    world.init()
    world.images.there.clear()
    world.init()
    assert world.images.wishes[1] == ImageWish()


def test_a_run_that_was_cut_short_is_taken_up_and_restarts_the_daemons(world: World) -> None:
    """They may run with settings of before."""

    def cut() -> None:
        raise LabError("power failed")

    world.at_bring_up = cut
    with pytest.raises(LabError, match="power failed"):
        world.init()
    ca = world.path("/etc/kubernetes/pki/ca.crt").read_bytes()
    world.at_bring_up = lambda: None
    world.init()
    assert world.path("/etc/kubernetes/pki/ca.crt").read_bytes() == ca
    assert world.restarts == [True, True]


def test_the_api_server_may_come_up_slowly_and_in_parts(world: World) -> None:
    """Every refusal counts as not yet, and what is waited for is told once."""
    fails = iter(range(30))

    def before(_method: str, _path: str) -> None:
        if next(fails, None) is not None:
            raise away()

    objects = world.api.objects
    world.api = FakeApi(before)
    world.api.objects = objects
    assert world.init().node == "master1"
    assert world.steps.count("API: etcd exited, kube-apiserver running") == 1


def test_an_api_server_that_never_comes_is_an_error_that_says_how_its_parts_are(
    world: World,
) -> None:
    """And where to look."""

    def before(_method: str, _path: str) -> None:
        raise away()

    world.api = FakeApi(before)
    with pytest.raises(LabError) as caught:
        world.init(replace(REQUEST, timeout=0.0))
    text = str(caught.value)
    assert "the API server does not answer after 0 s: etcd exited, kube-apiserver running" in text
    assert "journalctl -u nodeagent" in text


def test_pods_stay_away_from_a_master_unless_they_are_let(world: World) -> None:
    """Both by its registration and by what it is registered as; later runs keep it."""
    world.init()
    assert world.settings()["register-with-taints"]
    assert world.api.objects[NODE]["spec"]["taints"] == [TAINT]
    world.init(replace(REQUEST, schedule_pods=True))
    assert "register-with-taints" not in world.settings()
    assert world.api.objects[NODE]["spec"]["taints"] == []
    world.init()
    assert "register-with-taints" not in world.settings()


def test_the_master_gets_its_roles(world: World) -> None:
    """Which a node may not give itself."""
    world.init()
    labels = world.api.objects[NODE]["metadata"]["labels"]
    assert "node-role.kubernetes.io/master" in labels


def test_a_node_that_is_not_ready_is_waited_for(world: World) -> None:
    """With its own words."""
    world.api.objects[NODE] = {
        "metadata": {"name": "master1"},
        "status": {"conditions": [{"type": "Ready", "status": "False", "message": "no Docker"}]},
    }
    with pytest.raises(LabError, match=r"node master1 is not Ready after 0 s: .*no Docker"):
        world.init(replace(REQUEST, timeout=0.0))
    known = record.load(world.path(RECORD_FILE))
    assert known is not None
    assert known.at == 0


@pytest.mark.parametrize("folder", ["/var/lib/etcd/data", "/var/lib/etcd-network"])
def test_an_etcd_of_before_is_not_taken_for_the_new_clusters(world: World, folder: str) -> None:
    """Its objects were made under another CA. A second run finds the cluster's own data."""
    left = world.path(folder) / "member"
    left.mkdir(parents=True)
    with pytest.raises(PrerequisiteError, match=f"{folder} holds the data of an etcd"):
        world.init()
    left.rmdir()
    world.init()
    left.mkdir()
    world.init()


def test_a_netd_that_remembers_another_network_is_told_of(world: World) -> None:
    """It would come up with that subnet, which is none of the new network."""
    state = world.path("/var/lib/netd/state.json")
    state.parent.mkdir(parents=True)
    state.write_bytes(msgspec.json.encode(State(subnet="10.1.3.0/24")))
    with pytest.raises(PrerequisiteError, match=r"netd remembers 10\.1\.3\.0/24.*netd cleanup"):
        world.init()
    world.init(replace(REQUEST, asked=Asked("master1", pods="10.1.0.0/16")))


def test_other_ranges_than_the_cluster_has_are_refused_before_anything_is_done(
    world: World,
) -> None:
    """Both are named."""
    world.init()
    before = world.api.calls.copy()
    with pytest.raises(UsageError, match=r"--network 10\.9\.0\.0/16: .*10\.244\.0\.0/16"):
        world.init(replace(REQUEST, asked=Asked(pods="10.9.0.0/16")))
    assert world.api.calls == before


def test_a_host_that_is_a_worker_is_left_alone(world: World) -> None:
    """preflight says so; nothing was written."""

    async def refuse(*_: object, **__: object) -> Record | None:
        raise BusyError("this host is a worker already")

    world._check = refuse  # type: ignore[method-assign]
    with pytest.raises(BusyError):
        world.init()
    assert not world.path("/etc").exists()


def flags(*words: str) -> Namespace:
    """The command's flags as it reads them."""
    parser = ArgumentParser()
    initcommand.add_arguments(parser.add_subparsers(), "")
    return parser.parse_args(["init", *words])


@pytest.mark.parametrize("expires", ["2026-11-22T12:00:00Z", ""])
def test_the_join_line_is_alone_on_stdout(world: World, expires: str) -> None:
    """For a shell's $(...), however narrow the terminal; what else there is to say is beside it."""
    done = msgspec.structs.replace(world.init(), expires=expires)
    out, beside = io.StringIO(), io.StringIO()
    output = Output(Console(file=out, width=40), Console(file=beside, width=40))
    initcommand.show(done, output, json=False)
    assert out.getvalue() == f"{done.join}\n"
    assert "export KUBECONFIG=/etc/kubernetes/admin.conf" in beside.getvalue()
    assert ("until" in beside.getvalue()) == bool(expires)
    initcommand.show(done, output, json=True)
    assert json.loads(out.getvalue().partition("\n")[2])["join"] == done.join


def test_a_daemon_that_is_up_and_not_ready_is_waited_for(world: World) -> None:
    """netd may not know the services yet; it says what is missing."""
    socket = world.path("/run/netd/netd.sock")
    socket.parent.mkdir(parents=True)
    answers = iter((b"503 Service Unavailable", b"200 OK"))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 " + next(answers) + b"\r\n\r\nno services listed\n")
        writer.close()

    async def run() -> None:
        async with await asyncio.start_unix_server(answer, socket):
            await world.steps_of().run(REQUEST)

    asyncio.run(run())
    assert "netd: no services listed" in world.steps


def test_addresses_that_cannot_be_read_are_said_so(world: World) -> None:
    """ip is missing, or says something else."""
    world.machine.said = "{"
    with pytest.raises(LabError, match="this host's addresses cannot be read"):
        world.init()
    world.machine.said = '[{"addr_info": [{"family": "inet"}]}]'
    with pytest.raises(LabError, match="this host's addresses cannot be read"):
        world.init()


def test_a_docker_that_does_not_tell_of_containers_is_no_reason_to_stop(world: World) -> None:
    """The server's own refusal is shown then."""

    def before(_method: str, _path: str) -> None:
        raise away()

    world.machine.docker = False
    world.api = FakeApi(before)
    with pytest.raises(LabError, match="after 0 s: no API server answers"):
        world.init(replace(REQUEST, timeout=0.0))


def test_flags_become_a_request() -> None:
    """Each where it belongs."""
    words = ("--node-name=a", "--address=192.0.2.1", "--network=10.1.0.0/16", "--domain=d.org",
             "--service-range=10.2.0.0/16", "--name=x.org", "--etcd-image=e", "--token", str(TOKEN),
             "--token-ttl=0", "--schedule-pods", "--timeout=90s", "--hyperkube-image=h:v1.20.2",
             "--kubernetes-version=v1.20.2")  # fmt: skip
    assert initcommand.parse(flags(*words)) == Request(
        Asked("a", "192.0.2.1", "10.1.0.0/16", "10.2.0.0/16", "d.org"),
        ("x.org",),
        ImageWish("h:v1.20.2", "", "v1.20.2", "e"),
        TOKEN,
        None,
        schedule_pods=True,
        timeout=90.0,
    )
    assert initcommand.parse(flags()).ttl == timedelta(days=1)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--token=abc",), "--token: this is no join token"),
        (("--token-ttl=x",), "--token-ttl x: use a time"),
        (("--timeout=x",), "--timeout x: use a time"),
        (("--hyperkube-image=a", "--kube-bin-dir=b"), "give one of them"),
    ],
)
def test_flags_that_cannot_be_used_are_named(words: tuple[str, ...], text: str) -> None:
    """Before anything is looked at."""
    with pytest.raises(UsageError, match=text):
        initcommand.parse(flags(*words))


def test_the_newest_container_of_each_part_counts() -> None:
    """docker ps shows it first."""
    lines = "etcd\trunning\netcd\texited\nkube-apiserver\tcreated\n"
    assert bootstrap.container_states(lines) == "etcd running, kube-apiserver created"
    assert bootstrap.container_states("") == ""
