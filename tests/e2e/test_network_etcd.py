"""The network has an etcd of its own: who leases a subnet holds no key to Kubernetes' objects."""

import pytest

from lab.master.etcdpods import KUBERNETES_ETCD, NETWORK_ETCD, Etcd
from lab.master.staticpod import PKI
from tests.support.kubelab import KubeLab

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PREFIX = "/coreos.com/network"
COMPACTION = "compact_rev_key"
"""Where API servers agree on who compacts, from five minutes after their start on."""
CONTAINER = "label=io.kubernetes.container.name"


def curl(kube: KubeLab, host: str, etcd: Etcd, client: str) -> str:
    """What *etcd* of the master answers to *host* with the pair *client*, "" when it refuses."""
    url = f"https://{kube.address(kube.masters[0])}:{etcd.port}/v3/kv/range"
    pair = ("--cert", f"{PKI}/{client}.crt", "--key", f"{PKI}/{client}.key")
    everything = '{"key":"AA==","range_end":"AA==","keys_only":true}'
    # -k: of the two only the server's opinion of the client is asked for here.
    argv = ("curl", "-sk", "--max-time", "20", *pair, url, "-d", everything)
    return kube.exec(host, *argv, check=False)


def keys(kube: KubeLab, etcd: Etcd, client: str) -> list[str]:
    """All keys of *etcd*, as the master finds them with the pair *client*."""
    argv = (
        "env", "ETCDCTL_API=3", "etcdctl", f"--cacert={PKI}/{etcd.authority}.crt",
        f"--cert={PKI}/{client}.crt", f"--key={PKI}/{client}.key",
        f"--endpoints=https://127.0.0.1:{etcd.port}", "get", "", "--prefix", "--keys-only",
    )  # fmt: skip
    return kube.exec(kube.masters[0], *argv).split()


def subnets(kube: KubeLab) -> dict[str, str]:
    """The subnet of each host, as Docker was told."""
    return {host: kube.exec(host, "cat", "/run/flannel/subnet.env") for host in kube.hosts}


def connected(kube: KubeLab, host: str) -> bool:
    """Whether netd of *host* has a connection to the network's etcd."""
    said = kube.exec(host, "netd", "status", check=False)
    etcd = next((line for line in said.splitlines() if line.startswith("etcd ")), "")
    return "connected," in etcd and f":{NETWORK_ETCD.port}" in etcd


def test_each_etcd_holds_what_is_its_own(kube: KubeLab) -> None:
    """Configuration and a record for each host here, Kubernetes' objects there."""
    network = keys(kube, NETWORK_ETCD, "netd")
    assert all(key.startswith(f"{PREFIX}/") for key in network)
    assert f"{PREFIX}/config" in network
    records = [key for key in network if key.startswith(f"{PREFIX}/subnets/")]
    assert len(records) == len(kube.hosts)
    kubernetes = set(keys(kube, KUBERNETES_ETCD, "etcd/healthcheck-client")) - {COMPACTION}
    assert kubernetes and all(key.startswith("/registry/") for key in kubernetes)


def test_nothing_that_a_worker_holds_opens_kubernetes_etcd(kube: KubeLab) -> None:
    """Each of its pairs is refused there; netd's opens the network's."""
    worker = kube.workers[0]
    files = kube.exec(worker, "find", PKI, "-name", "*.key").split()
    pairs = {file.removeprefix(f"{PKI}/").removesuffix(".key") for file in files}
    assert pairs == {"kubelet", "netd", "nodeagent"}
    assert curl(kube, kube.masters[0], KUBERNETES_ETCD, "apiserver-etcd-client")
    assert {pair: curl(kube, worker, KUBERNETES_ETCD, pair) for pair in pairs} == dict.fromkeys(
        pairs, ""
    )
    assert '"kvs"' in curl(kube, worker, NETWORK_ETCD, "netd")


def test_the_network_s_etcd_ends_and_comes_back_and_nobody_moves(kube: KubeLab) -> None:
    """Its pod is started again, every host is connected again and keeps its subnet."""
    before, master = subnets(kube), kube.masters[0]
    find = ("ps", "--quiet", f"--filter={CONTAINER}={NETWORK_ETCD.name}")
    old = kube.docker(master, *find).strip()
    assert old
    kube.docker(master, "kill", old)
    kube.wait(lambda: kube.docker(master, *find).strip() not in {"", old}, "it is started again")
    assert kube.json("get", "nodes")["items"], "the API answers meanwhile"
    for host in kube.hosts:
        kube.wait(lambda host=host: connected(kube, host), f"netd of {host} is connected")  # type: ignore[misc]
    assert subnets(kube) == before
