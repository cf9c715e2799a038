"""``barenode join`` against an API server over TLS, on the disk and the services of a fake host."""

import asyncio
import tomllib
from argparse import Namespace
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509 as library

from hostkit.errors import HostkitError
from hostkit.kube.config import load as load_kubeconfig
from lab import cli
from lab.errors import BusyError, LabError, UsageError
from lab.join import csr, joincommand, record, registration
from lab.join.hostservices import DOCKER, NETD, NODEAGENT
from lab.join.joining import Asked, Join, Joined, check_source
from lab.join.member import Member
from lab.join.model import RECORD_FILE, Record
from lab.join.tokens import Token
from lab.master import x509
from tests.lab.join.booted import Machine
from tests.lab.join.cluster import CONFIG, TOKEN, Cluster, node, pem, status

NAME = "w1"
ADDRESS = "127.0.0.9"
WRONG = "zzzzzz.0123456789abcdef"


class Host(Machine):
    """A fresh host whose nodeagent, once it is up, makes its node Ready in *cluster*."""

    def __init__(self, root: Path, cluster: Cluster) -> None:
        super().__init__(root)
        self.cluster = cluster
        self.registers = True
        self.member = Member(root)
        (root / "run/flannel").mkdir(parents=True)
        (root / "run/flannel/subnet.env").write_text("FLANNEL_SUBNET=10.1.7.1/24\n")
        self.write_options("10.1.7.1/24")

    def _do(self, verb: str, name: str) -> None:
        super()._do(verb, name)
        if verb == "restart" and name == NODEAGENT and self.registers:
            self.cluster.ready(NAME, ADDRESS)

    @property
    def remembered(self) -> Record | None:
        """What it remembers."""
        return record.load(self.root / RECORD_FILE.lstrip("/"))

    @property
    def files(self) -> dict[str, bytes]:
        """What is on its disk, by path."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and "/run/" not in f"/{path.relative_to(self.root)}"
        }

    def wish(self, token: str = TOKEN, name: str = NAME) -> Asked:
        """The flags of the join line."""
        given = Token.parse(token) if token else None
        return Asked(self.cluster.server, self.cluster.pin, given, name, ADDRESS, 60.0)

    async def join(self, wish: Asked | None = None) -> Joined:
        """What is tested."""
        made = Join(wish or self.wish(), self, self.report, root=self.root, systemd=self.systemd)
        return await made.run()


@pytest.fixture
def host(tmp_path: Path, cluster: Cluster) -> Host:
    """A fresh host."""
    return Host(tmp_path / "host", cluster)


async def test_a_fresh_host_becomes_a_node(host: Host, cluster: Cluster) -> None:
    """With certificates, settings and services of its own."""
    joined = await host.join()
    server = str(cluster.server.url)
    assert joined == Joined(NAME, ADDRESS, "10.1.7.0/24", server, already=False)
    netd = tomllib.loads(host.files["etc/netd/conf.d/50-cluster.toml"].decode())
    assert netd["etcd-endpoints"] == ["https://198.18.0.2:12379"]
    assert netd["etcd-certfile"] == "/etc/kubernetes/pki/node.crt"
    assert netd["public-ip"] == ADDRESS
    assert netd["master"] == [server, "https://198.18.0.2:6443"]
    agent = tomllib.loads(host.files["etc/nodeagent/conf.d/50-cluster.toml"].decode())
    assert agent["node-ip"] == ADDRESS
    assert agent["tls-cert-file"] == "/etc/kubernetes/pki/kubelet.crt"
    assert agent["kubeconfig"] == "/etc/kubernetes/nodeagent.conf"
    assert [name for name, unit in host.units.items() if unit.active == "active"] == [
        NETD, NODEAGENT, DOCKER
    ]  # fmt: skip
    known = host.remembered
    assert known is not None
    assert known.at > 0


async def test_the_node_is_itself_from_its_first_certificate_on(
    host: Host, cluster: Cluster
) -> None:
    """The token asks for that one, and approves the one of the server."""
    await host.join()
    assert cluster.made("POST", "certificatesigningrequests") == ["stranger", f"system:node:{NAME}"]
    assert cluster.made("PUT", "approval") == ["stranger"]
    assert set(cluster.made("GET", f"/nodes/{NAME}")) == {f"system:node:{NAME}"}


async def test_secrets_are_for_root_alone(host: Host) -> None:
    """And the token is nowhere on the disk, in a command, or in what is said."""
    await host.join()
    for name in ("pki/node.key", "pki/kubelet.key", "nodeagent.conf"):
        assert (host.root / "etc/kubernetes" / name).stat().st_mode & 0o777 == 0o600
    secret = TOKEN.partition(".")[2]
    assert not [name for name, data in host.files.items() if secret.encode() in data]
    assert secret not in str(host.ran)
    assert secret not in str(host.said)
    assert secret not in repr(host.wish())


async def test_the_kubeconfig_names_files_so_that_renewed_ones_count(host: Host) -> None:
    """Both daemons read it."""
    await host.join()
    text = host.files["etc/kubernetes/nodeagent.conf"].decode()
    moved = host.root / "moved.conf"
    moved.write_text(text.replace("/etc/", f"{host.root}/etc/"))
    config = load_kubeconfig((), str(moved))
    assert config.servers == (host.cluster.server.url,)
    assert config.cert_file.endswith("pki/node.crt")
    assert "BEGIN" not in text


async def test_a_member_that_is_well_is_told_so_without_a_token(
    host: Host, cluster: Cluster
) -> None:
    """Nothing is changed, and nothing restarted."""
    await host.join()
    before = host.files
    host.ran.clear()
    cluster.calls.clear()
    again = await host.join(host.wish(token=WRONG))
    assert again.already
    assert host.files == before
    assert not [argv for argv in host.ran if argv[1] == "restart"]
    assert [who for who, _, _ in cluster.calls] == [f"system:node:{NAME}"]


@pytest.mark.parametrize("steps", range(11))
async def test_a_join_that_is_cut_short_anywhere_is_completed_by_the_next(
    host: Host, cluster: Cluster, steps: int
) -> None:
    """After any number of answers of the API; no request is made twice."""
    left = steps

    def cut(_method: str, _path: str) -> web.Response | None:
        nonlocal left
        left -= 1
        return status(500, "InternalError") if left < 0 else None

    cluster.fail = cut
    task = asyncio.ensure_future(host.join(replace(host.wish(), timeout=0.1)))
    with pytest.raises(Exception, match=r"500|not Ready"):
        await task
    keys = {name: data for name, data in host.files.items() if name.endswith(".key")}
    cluster.fail = lambda _method, _path: None
    assert not (await host.join()).already
    assert len(cluster.requests) == 2
    assert {name: host.files[name] for name in keys} == keys
    assert (await host.join()).already


async def test_a_wrong_token_says_where_a_new_one_comes_from(host: Host) -> None:
    """And leaves nothing behind."""
    with pytest.raises(
        LabError, match=r"token zzzzzz: .*expired; 'barenode token create"
    ) as caught:
        await host.join(host.wish(token=WRONG))
    assert "0123456789abcdef" not in str(caught.value)
    assert host.files == {}


async def test_without_a_token_a_stranger_gets_no_further(host: Host) -> None:
    """The pin alone opens nothing."""
    with pytest.raises(UsageError, match="--token is missing"):
        await host.join(host.wish(token=""))


async def test_a_token_without_rights_is_told_apart_from_a_wrong_one(
    host: Host, cluster: Cluster
) -> None:
    """kubeadm's tokens have another group."""
    cluster.fail = lambda _m, path: status(403, "Forbidden") if "kube-system" in path else None
    with pytest.raises(LabError, match="opens the API, and is not good for joining"):
        await host.join()


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (None, "no ConfigMap kube-system/barenode"),
        ({}, "is damaged"),
        ({"cluster.json": "[]"}, "is damaged"),
        ({"cluster.json": '{"masters": [], "pods": "x", "services": "x", "domain": "x",'
          ' "version": "v1.20"}'}, "cannot be used"),
    ],
)  # fmt: skip
async def test_a_cluster_without_its_configuration_is_named(
    host: Host, cluster: Cluster, config: dict[str, str] | None, text: str
) -> None:
    """init did not finish, or somebody edited it."""
    cluster.config = config
    with pytest.raises(LabError, match=text):
        await host.join()


async def test_another_hosts_name_is_refused_before_anything_is_asked_for(
    host: Host, cluster: Cluster
) -> None:
    """Two hosts of one name would overwrite each other."""
    cluster.nodes[NAME] = node(NAME, "10.0.0.77")
    with pytest.raises(BusyError, match=r"node w1 already, at 10\.0\.0\.77.*--node-name"):
        await host.join()
    assert not cluster.requests
    assert host.files == {}


async def test_a_host_may_move_to_another_address(host: Host, cluster: Cluster) -> None:
    """It remembers that the name is its own; its server gets another certificate."""
    await host.join()
    moved = await host.join(replace(host.wish(), address="127.0.0.10"))
    assert (moved.address, moved.already) == ("127.0.0.10", False)
    assert len(cluster.requests) == 3


async def test_a_node_of_another_cluster_is_sent_to_reset(host: Host) -> None:
    """Its certificates would be worth nothing."""
    await host.join()
    with pytest.raises(BusyError, match=r"of another cluster.*barenode reset"):
        await host.join(replace(host.wish(), pin="sha256:" + "a" * 64))


async def test_the_ca_of_somebody_else_is_not_overwritten(host: Host, cluster: Cluster) -> None:
    """Another tool's cluster may depend on it; the same CA does no harm."""
    path = host.root / "etc/kubernetes/pki/ca.crt"
    path.parent.mkdir(parents=True)
    path.write_text("another")
    with pytest.raises(BusyError, match=r"pki/ca\.crt is there, and of another cluster"):
        await host.join()
    assert path.read_text() == "another"
    path.write_bytes(pem(cluster.ca))
    await host.join()


async def test_a_node_keeps_its_name(host: Host) -> None:
    """Another one takes a reset."""
    await host.join()
    with pytest.raises(BusyError, match="join with --node-name w1"):
        await host.join(host.wish(name="w2"))


async def test_a_node_that_does_not_get_ready_says_why(host: Host, cluster: Cluster) -> None:
    """In its own words, and only once meanwhile."""
    host.registers = False
    cluster.nodes[NAME] = node(NAME, ADDRESS, ready=False)
    with pytest.raises(LabError, match=r"not Ready after 0.1 s: docker is away"):
        await host.join(replace(host.wish(), timeout=0.1))
    assert [text for subject, text in host.said if subject == "node"][1:] == ["docker is away"]


async def test_a_certificate_that_has_nearly_lasted_is_asked_for_anew(
    host: Host, cluster: Cluster
) -> None:
    """One that has expired: the next join takes a token again, and keeps the key."""
    cluster.life = timedelta(seconds=-60)
    with pytest.raises((LabError, HostkitError)):
        await host.join(replace(host.wish(), timeout=0.1))
    key = host.files["etc/kubernetes/pki/node.key"]
    cluster.life = timedelta(days=1)
    cluster.requests.clear()
    await host.join()
    assert host.files["etc/kubernetes/pki/node.key"] == key


async def test_a_new_token_renews_the_servers_certificate_in_time(
    host: Host, cluster: Cluster
) -> None:
    """As the timer's warning says; without a token, or with time left, nothing happens."""
    await host.join()
    file = host.root / "etc/kubernetes/pki/kubelet.crt"
    first = file.read_bytes()

    async def later(days: int, token: str) -> Joined:
        seen = datetime.now(UTC) + timedelta(days=days)
        cluster.ready(NAME, ADDRESS, seen=seen.strftime("%Y-%m-%dT%H:%M:%SZ"))
        cluster.date = seen.strftime("%a, %d %b %Y %H:%M:%S GMT")
        made = Join(
            host.wish(token), host, host.report, root=host.root, systemd=host.systemd,
            now=seen.timestamp,
        )  # fmt: skip
        host.registers = False
        return await made.run()

    assert (await later(300, TOKEN)).already
    assert (await later(310, "")).already
    assert file.read_bytes() == first
    assert not (await later(310, TOKEN)).already
    assert file.read_bytes() != first
    assert len(cluster.requests) == 3


def test_a_certificate_of_another_cluster_or_key_does_not_count(tmp_path: Path) -> None:
    """Nor a damaged file."""
    cluster, member, now = Cluster(tmp_path), Member(tmp_path), datetime.now(UTC)
    wanted = csr.client_of(NAME)
    ca = pem(cluster.ca).decode()
    assert member.held(wanted, ca, now) is None
    request = csr.Request(csr.CLIENT, wanted, member.key(wanted))

    signed = cluster.issue(library.load_pem_x509_csr(csr.pem_of(request)), client=True)
    member.keep(wanted, signed)
    assert member.held(wanted, ca, now) is not None
    assert member.held(csr.client_of("w2"), ca, now) is None
    assert member.held(wanted, pem(Cluster(tmp_path).ca).decode(), now) is None
    assert member.held(wanted, ca, now + timedelta(days=366)) is None
    member.key_file(wanted).write_bytes(x509.key_pem(x509.new_key()))
    assert member.held(wanted, ca, now) is None
    member.key_file(wanted).write_bytes(b"half a k")
    assert member.held(wanted, ca, now) is None
    assert x509.load_key(x509.key_pem(member.key(wanted)))
    member.cert(wanted).write_bytes(b"")
    assert member.held(wanted, ca, now) is None


def args(*words: str) -> Namespace:
    """The command line of a join."""
    return cli.parse(["join", *words], "1")


PIN = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "ADDRESS is missing"),
        (("10.0.0.1",), "--ca-hash is missing"),
        (("10.0.0.1", "--ca-hash", "x"), "--ca-hash"),
        (("10.0.0.1", "--ca-hash", PIN, "--token", "x"), "--token"),
        (("10.0.0.1", "--ca-hash", PIN, "--token-file", "/nonexistent"), "--token-file"),
        (("10.0.0.1", "--ca-hash", PIN, "--node-name", "W_1"), "--node-name"),
        (("10.0.0.1", "--ca-hash", PIN, "--address", "127.0.0.1"), "--address"),
        (("10.0.0.1", "--ca-hash", PIN, "--timeout", "soon"), "--timeout"),
        (("10.0.0.1", "--ca-hash", PIN, "--timeout", "1s"), "10 s or more"),
        (("10.0.0.1:x", "--ca-hash", PIN), "ADDRESS"),
    ],
)
def test_wrong_values_are_refused_by_their_flag(words: tuple[str, ...], text: str) -> None:
    """Before anything is looked at."""
    with pytest.raises(UsageError, match=text):
        joincommand.asked(args(*words))


def test_a_token_may_come_from_a_file(tmp_path: Path) -> None:
    """Where the process list does not show it."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    found = joincommand.asked(
        args("10.0.0.1", "--ca-hash", PIN, "--token-file", str(tmp_path / "token"))
    )
    assert str(found.token) == TOKEN
    assert joincommand.asked(args("10.0.0.1", "--ca-hash", PIN)).token is None


@pytest.mark.parametrize(
    ("address", "given", "text"),
    [
        ("127.0.0.1", "", "leads to this host itself"),
        ("10.0.2.15", "", "every machine behind VirtualBox's NAT has"),
        ("203.0.113.5", "203.0.113.5", "no interface of this host has it"),
    ],
)
def test_an_address_that_others_cannot_reach_is_refused(
    host: Host, address: str, given: str, text: str
) -> None:
    """Given, or by the route."""
    with pytest.raises(UsageError, match=text):
        check_source(address, replace(host.wish(), address=given))


def test_nodes_of_the_same_name_or_address_clash() -> None:
    """Unless it is this very host, or the other is gone."""
    check = registration.check_clash
    own = Record(role="worker", name="w1", address="10.0.0.9", server="", ca_hash="")
    w1, w2 = node("w1", "10.0.0.9"), node("w2", "10.0.0.8")
    assert check([w1, w2], "w1", "10.0.0.9", None) == ""
    assert check([w1, w2], "w3", "10.0.0.7", None) == ""
    assert check([w1, w2], "w1", "10.0.0.7", own) == ""
    assert check([node("w1", "")], "w1", "10.0.0.7", None) == ""
    assert "kubectl delete node w2" in check(
        [node("w2", "10.0.0.8", ready=False)], "w3", "10.0.0.8", None
    )
    with pytest.raises(
        BusyError, match=r"w1 already, at 10\.0\.0\.9, and this host is at 10\.0\.0\.7"
    ):
        check([w1], "w1", "10.0.0.7", None)
    with pytest.raises(BusyError, match=r"w2 has the address 10\.0\.0\.8 already, and is Ready"):
        check([w2], "w3", "10.0.0.8", None)


@pytest.mark.parametrize(
    ("name", "address", "text"),
    [
        ("m1", "10.0.0.9", "name of a master"),
        ("w1", "198.18.0.2", "address of the master m1"),
        ("w1", "10.1.3.4", "lies in the pods' network 10.1.0.0/16"),
        ("w1", "10.96.0.1", "lies in the services' network"),
    ],
)
def test_places_that_are_taken_in_the_plan_are_refused(name: str, address: str, text: str) -> None:
    """By masters, pods and services."""

    with pytest.raises(UsageError, match=text):
        registration.check_place(CONFIG.plane(), name, address)
