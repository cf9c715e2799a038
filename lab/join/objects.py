"""What ``barenode init`` puts into the API server so that hosts can join; pure.

Who shows a join token may ask for a node's certificate, read what a node has to know, and approve
serving certificates. A node may renew its own certificate, watch what netd needs, and leave; that
it touches no other node is the work of the Node authorizer and of NodeRestriction. Kubernetes' own
roles: plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go.
"""

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import msgspec
import yaml

from lab.join.model import CONFIG_KEY, CONFIG_NAME, CONFIG_NAMESPACE, JOIN_GROUP, ClusterConfig

Raw = dict[str, Any]
Placed = tuple[str, Raw]
"""A collection's path at the API server, and an object for it."""

CLUSTER_INFO = "cluster-info"
CLUSTER_INFO_NAMESPACE = "kube-public"
CLUSTER_INFO_KEY = "kubeconfig"
"""The ConfigMap, and the key in it, that everybody may read; names are Kubernetes' own."""
NODES = "system:nodes"
ROLE_LABELS = ("node-role.kubernetes.io/master", "node-role.kubernetes.io/control-plane")
"""What ``kubectl get nodes`` shows as roles. A node may not give itself these labels."""

_RBAC = "rbac.authorization.k8s.io"
_ROOT = f"/apis/{_RBAC}/v1"
_CSR = "certificates.k8s.io"
_JOINER = "barenode:join"
_LEAVER = "barenode:leave"
_EVERYBODY = ("system:anonymous", "system:unauthenticated")


def for_cluster(config: ClusterConfig, server: str, ca: bytes) -> tuple[Placed, ...]:
    """Everything of the cluster *config*, in the order in which it is to be made.

    *server* is the API server's URL as others reach it, *ca* the cluster's CA as PEM.
    """
    return (
        *_for_joiners(),
        *_for_nodes(),
        *_shared(CONFIG_NAMESPACE, CONFIG_NAME, (JOIN_GROUP, NODES), {
            CONFIG_KEY: msgspec.json.format(msgspec.json.encode(config), indent=2).decode(),
        }),
        *_shared(CLUSTER_INFO_NAMESPACE, CLUSTER_INFO, _EVERYBODY, {
            CLUSTER_INFO_KEY: cluster_info(server, ca),
        }),
    )  # fmt: skip


def cluster_info(server: str, ca: bytes) -> str:
    """The kubeconfig in ``cluster-info``: server and CA, and no user."""
    data = {"server": server, "certificate-authority-data": b64encode(ca).decode("ascii")}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "", "cluster": data}],
        "contexts": [],
        "users": [],
        "current-context": "",
        "preferences": {},
    }
    return yaml.safe_dump(document, sort_keys=False, width=2**20)


def fits(found: Raw, wanted: Raw) -> bool:
    """Whether the object *found* at the API server already says what *wanted* does.

    The bootstrap signer adds signatures to ``cluster-info``: what it added stays.
    """
    return all(_within(found.get(key), value) for key, value in wanted.items())


def _within(found: object, wanted: object) -> bool:
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(_within(found.get(key), value) for key, value in wanted.items())
    return found == wanted


def _for_joiners() -> tuple[Placed, ...]:
    """Rights of whoever comes with a token."""
    group = (JOIN_GROUP,)
    role = _cluster_role(
        _JOINER,
        # A name or an address that another node has is noticed before the host becomes a node.
        _rule([""], ["nodes"], ["get", "list"]),
        _rule([_CSR], ["certificatesigningrequests"], ["get", "list", "watch"]),
        _rule([_CSR], ["certificatesigningrequests/approval"], ["update"]),
        _rule([_CSR], ["signers"], ["approve"], ["kubernetes.io/kubelet-serving"]),
    )
    nodeclient = f"system:{_CSR}:certificatesigningrequests:nodeclient"
    return (
        role,
        _binding(_JOINER, _JOINER, group),
        _binding("barenode:join-bootstrap", "system:node-bootstrapper", group),
        _binding("barenode:join-approved", nodeclient, group),
    )


def _for_nodes() -> tuple[Placed, ...]:
    """Rights of nodes, beyond those of the Node authorizer."""
    group = (NODES,)
    renewal = f"system:{_CSR}:certificatesigningrequests:selfnodeclient"
    return (
        _cluster_role(_LEAVER, _rule([""], ["nodes"], ["delete"])),
        _binding(_LEAVER, _LEAVER, group),
        _binding("barenode:renewal-approved", renewal, group),
        # netd of a joined host has the node's own credential.
        _binding("barenode:netd", "system:node-proxier", group),
    )


def _shared(
    namespace: str, name: str, readers: Sequence[str], data: dict[str, str]
) -> tuple[Placed, ...]:
    """A ConfigMap, and the right of *readers* to read it: groups, and the user system:anonymous."""
    meta = {"name": name, "namespace": namespace}
    labelled = {"name": f"barenode:{name}", "namespace": namespace}
    rule = _rule([""], ["configmaps"], ["get"], [name])
    role = {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": labelled, "rules": [rule]}
    subjects = [
        _subject("User" if reader == "system:anonymous" else "Group", reader) for reader in readers
    ]
    binding = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": labelled,
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": labelled["name"]},
        "subjects": subjects,
    }
    where = f"{_ROOT}/namespaces/{namespace}"
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}
    return (
        (f"/api/v1/namespaces/{namespace}/configmaps", config),
        (f"{where}/roles", role),
        (f"{where}/rolebindings", binding),
    )


def _rule(
    groups: Sequence[str], resources: Sequence[str], verbs: Sequence[str], names: Sequence[str] = ()
) -> Raw:
    rule = {"apiGroups": list(groups), "resources": list(resources), "verbs": list(verbs)}
    return {**rule, "resourceNames": list(names)} if names else rule


def _cluster_role(name: str, *rules: Raw) -> Placed:
    role = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": list(rules),
    }
    return f"{_ROOT}/clusterroles", role


def _binding(name: str, role: str, groups: Sequence[str]) -> Placed:
    binding = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [_subject("Group", group) for group in groups],
    }
    return f"{_ROOT}/clusterrolebindings", binding


def _subject(kind: str, name: str) -> Raw:
    return {"apiGroup": _RBAC, "kind": kind, "name": name}
