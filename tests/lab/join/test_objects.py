"""What init puts into the API server; that the server takes it is tests/e2e/test_tokens.py."""

import msgspec
import pytest
import yaml

from lab.join import objects
from lab.join.model import CONFIG_KEY, JOIN_GROUP, ClusterConfig, Host
from lab.join.objects import Placed, Raw

CONFIG = ClusterConfig(
    masters=(Host("master1", "10.0.0.1"),),
    pods="10.244.0.0/16",
    services="10.96.0.0/12",
    domain="cluster.local",
    version="v1.20",
)
SERVER = "https://10.0.0.1:6443"
PLACED = objects.for_cluster(CONFIG, SERVER, b"-----BEGIN CERTIFICATE-----\n")


def kinds(*wanted: str) -> list[Raw]:
    """The objects of these kinds."""
    return [document for _, document in PLACED if document["kind"] in wanted]


def name(placed: Placed) -> str:
    """Where the object will be."""
    return f"{placed[0]}/{placed[1]['metadata']['name']}"


def test_every_object_goes_where_its_kind_and_namespace_belong() -> None:
    """And none of them twice."""
    assert len({name(one) for one in PLACED}) == len(PLACED)
    for collection, document in PLACED:
        group = document["apiVersion"]
        root = f"/apis/{group}" if "/" in group else f"/api/{group}"
        space = document["metadata"].get("namespace")
        where = f"{root}/namespaces/{space}" if space else root
        assert collection == f"{where}/{document['kind'].lower()}s"


def test_a_binding_comes_after_the_role_that_it_gives() -> None:
    """So that nobody is let in by half."""
    seen = set()
    for _, document in PLACED:
        if document["kind"].endswith("Binding"):
            role = document["roleRef"]["name"]
            # What begins so is Kubernetes' own, or made here.
            assert role.startswith("system:") or role in seen
        seen.add(document["metadata"]["name"])


def test_everybody_may_read_cluster_info_and_nothing_else() -> None:
    """Anonymous users have one object, by name."""
    given = [
        one for one in kinds("RoleBinding", "ClusterRoleBinding")
        if any("anonymous" in s["name"] or "unauth" in s["name"] for s in one["subjects"])
    ]  # fmt: skip
    assert [one["metadata"]["namespace"] for one in given] == ["kube-public"]
    assert {(s["kind"], s["name"]) for s in given[0]["subjects"]} == {
        ("User", "system:anonymous"),
        ("Group", "system:unauthenticated"),
    }
    (role,) = [one for one in kinds("Role") if one["metadata"]["namespace"] == "kube-public"]
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"],
         "resourceNames": ["cluster-info"]}
    ]  # fmt: skip


def test_no_role_of_ours_gives_everything_of_anything() -> None:
    """No asterisk, no secrets, and approval for one signer only."""
    for role in kinds("Role", "ClusterRole"):
        for rule in role["rules"]:
            assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])
            assert "secrets" not in rule["resources"]
            if "approve" in rule["verbs"]:
                assert rule["resourceNames"] == ["kubernetes.io/kubelet-serving"]


def test_a_token_may_not_remove_nodes_and_a_node_may_not_approve() -> None:
    """What each of both groups gets by roles of ours."""
    roles = {one["metadata"]["name"]: one for one in kinds("ClusterRole")}
    held: dict[str, set[str]] = {JOIN_GROUP: set(), objects.NODES: set()}
    for binding in kinds("ClusterRoleBinding"):
        role = roles.get(binding["roleRef"]["name"])
        for subject in binding["subjects"]:
            for rule in role["rules"] if role else ():
                held[subject["name"]] |= set(rule["verbs"])
    assert held[JOIN_GROUP] == {"get", "list", "watch", "update", "approve"}
    assert held[objects.NODES] == {"delete"}


def test_cluster_info_is_a_kubeconfig_without_a_user() -> None:
    """The server and its CA."""
    (info,) = [one for one in kinds("ConfigMap") if one["metadata"]["name"] == "cluster-info"]
    document = yaml.safe_load(info["data"]["kubeconfig"])
    (cluster,) = document["clusters"]
    assert cluster["cluster"]["server"] == SERVER
    assert document["users"] == []


def test_the_clusters_configuration_can_be_read_again() -> None:
    """By the host that joins."""
    (config,) = [one for one in kinds("ConfigMap") if one["metadata"]["name"] == "barenode"]
    assert msgspec.json.decode(config["data"][CONFIG_KEY], type=ClusterConfig) == CONFIG


@pytest.mark.parametrize(
    ("found", "same"),
    [
        ({"data": {"a": "1"}}, True),
        ({"data": {"a": "1", "jws-kubeconfig-abcdef": "x"}, "metadata": {"uid": "1"}}, True),
        ({"data": {"a": "2"}}, False),
        ({"data": {}}, False),
        ({"data": None}, False),
        ({}, False),
    ],
)
def test_what_others_added_to_an_object_stays(found: Raw, same: bool) -> None:
    """Such as the signatures in cluster-info."""
    assert objects.fits(found, {"data": {"a": "1"}}) is same


def test_a_rule_more_is_another_role() -> None:
    """Rights that somebody added to a role of ours are taken back."""
    (_, role), *_ = [one for one in PLACED if one[1]["kind"] == "ClusterRole"]
    assert objects.fits({**role, "metadata": {**role["metadata"], "uid": "1"}}, role)
    assert not objects.fits({**role, "rules": [*role["rules"], {"verbs": ["*"]}]}, role)
