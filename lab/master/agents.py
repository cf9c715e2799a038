"""The settings of netd and nodeagent on a host of a cluster, as the text of their files.

Pure. Paths are those at which ``lab.master.provision`` puts certificates and kubeconfigs; the
options are described in docs/netd.md and docs/nodeagent.md.
"""

import json
from collections.abc import Mapping, Sequence

from lab.master.manifests import KUBERNETES, PKI
from lab.master.plane import Plane, Version

NETD_FILE = "/etc/netd/conf.d/50-cluster.toml"
NODEAGENT_FILE = "/etc/nodeagent/conf.d/50-cluster.toml"
"""The cluster's settings: weaker than those of the operator, in the file above each folder."""
FILES_OF_OLD = ("/etc/netd/netd.toml", "/etc/nodeagent/nodeagent.toml")
"""Where these settings were while nobody else had any; those files are the operator's now."""
NETWORK_FILE = "/etc/netd/network.json"
MANIFESTS = f"{KUBERNETES}/manifests"
NODEAGENT_CONF = f"{KUBERNETES}/nodeagent.conf"
NETD_CONF = f"{KUBERNETES}/netd.conf"
NODE_PAIR = f"{PKI}/node"
"""The certificate and key, without suffix, that a joined host got by a request of its own."""

MASTER_TAINT = "node-role.kubernetes.io/control-plane=:NoSchedule"
MASTER_TAINT_OF_OLD = "node-role.kubernetes.io/master=:NoSchedule"
"""kubeadm's, before 1.24. Pods are made to tolerate the one of their time: with both at once a
master would keep them all away."""
_TAINT_RENAMED = Version(1, 24)

HEAD = "# made by barenode"
"""The first line of every file of settings that is made here."""

Value = str | bool | Sequence[str]


def netd_settings(
    plane: Plane, name: str, address: str, *, joined: bool = False
) -> dict[str, Value]:
    """netd's settings on the host *name* with *address*, master or not.

    *joined*: the host got its credential by a request of its own, so that netd is the node to API
    and etcd; otherwise it was given certificates, and netd has one of its own.
    """
    pair, kubeconfig = (NODE_PAIR, NODEAGENT_CONF) if joined else (f"{PKI}/netd", NETD_CONF)
    settings: dict[str, Value] = {
        "etcd-endpoints": plane.network_etcd_urls(first=name),
        "master": plane.api_urls(first=name),
        "cluster-cidr": str(plane.pods),
        "hostname-override": name,
        "public-ip": address,
        "ip-masq": True,
    }
    if plane.master(name):
        # Others do not know the subnets that masters begin with.
        settings["net-config-path"] = NETWORK_FILE
    if not plane.insecure:
        settings |= {
            "etcd-cafile": f"{PKI}/ca.crt",
            "etcd-certfile": f"{pair}.crt",
            "etcd-keyfile": f"{pair}.key",
            "kubeconfig": kubeconfig,
        }
    return settings


def nodeagent_settings(plane: Plane, name: str, address: str) -> dict[str, Value]:
    """nodeagent's settings on the host *name* with *address*, master or not, joined or prepared.

    Where its credential comes from is the kubeconfig's business.
    """
    settings: dict[str, Value] = {
        "config": MANIFESTS,
        "api-servers": plane.api_urls(first=name),
        "hostname-override": name,
        "node-ip": address,
        "cluster-domain": plane.domain,
        "client-ca-file": f"{PKI}/ca.crt",
        "tls-cert-file": f"{PKI}/kubelet.crt",
        "tls-private-key-file": f"{PKI}/kubelet.key",
    }
    if not plane.insecure:
        settings["kubeconfig"] = NODEAGENT_CONF
    if plane.master(name):
        old = plane.version < _TAINT_RENAMED
        settings["register-with-taints"] = [MASTER_TAINT_OF_OLD if old else MASTER_TAINT]
    return settings


def toml(settings: Mapping[str, Value]) -> str:
    """*settings* as a TOML document: basic strings, booleans and arrays, as JSON writes them."""
    lines = [f"{name} = {json.dumps(_plain(value))}" for name, value in settings.items()]
    return f"{HEAD}\n" + "\n".join(lines) + "\n"


def _plain(value: Value) -> object:
    return value if isinstance(value, (str, bool)) else list(value)


def network_config(plane: Plane) -> str:
    """flannel's network configuration, which netd puts into an etcd that has none."""
    config = {"Network": str(plane.pods), "Backend": {"Type": "vxlan"}}
    return json.dumps(config)
