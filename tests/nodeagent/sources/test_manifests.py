"""Manifests to static pods: who they are, what is filled in, what is refused and where."""

import copy
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.pods.model import Pod
from nodeagent.sources.manifests import HASH, MAX_BYTES, Manifest, StaticPod, merge, parse

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "prod", "labels": {"app": "web"}},
    "spec": {"containers": [{"name": "main", "image": "nginx:1"}]},
}


def fine(_pod: Pod, _spec: Mapping[str, Any]) -> Sequence[str]:
    return ()


def load(document: Any, file: str = "a.yaml", node: str = "Node1", seen: str = "") -> Manifest:
    data = document if isinstance(document, str) else json.dumps(document)
    return parse(data.encode(), file, node, fine, seen=seen)


def only(document: Any, **how: str) -> StaticPod:
    found = load(document, **how)
    assert found.errors == ()
    (one,) = found.pods
    return one


def changed(**parts: Any) -> dict[str, Any]:
    made = copy.deepcopy(POD)
    for path, value in parts.items():
        *way, last = path.split("__")
        at = made
        for step in way:
            at = at[step]
        at[last] = value
    return made


def test_a_static_pod_is_named_after_its_node_bound_to_it_and_marked() -> None:
    one = only(POD, seen="2026-01-01T00:00:00Z")
    assert (one.pod.key, one.pod.spec.node_name) == ("prod/web-node1", "Node1")
    assert one.pod.metadata.annotations == {
        "kubernetes.io/config.source": "file",
        "kubernetes.io/config.hash": one.pod.uid,
        "kubernetes.io/config.seen": "2026-01-01T00:00:00Z",
    }
    assert one.pod.is_static
    assert one.raw["metadata"]["uid"] == one.pod.uid
    assert one.raw["spec"]["tolerations"] == [{"operator": "Exists", "effect": "NoExecute"}]


def test_the_namespace_is_default_unless_it_is_said() -> None:
    assert only(changed(metadata={"name": "web"})).pod.key == "default/web-node1"


def shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        keys = list(value)
        chance.shuffle(keys)
        return {key: shuffled(value[key], chance) for key in keys}
    return [shuffled(one, chance) for one in value] if isinstance(value, list) else value


@settings(max_examples=50, deadline=None)
@given(st.randoms(use_true_random=False), st.booleans(), st.sampled_from(["a.yaml", "z.json"]))
def test_order_comments_form_name_and_time_change_nothing(
    chance: random.Random, as_yaml: bool, file: str
) -> None:
    mixed = shuffled(POD, chance)
    text = json.dumps(mixed)
    if as_yaml:
        text = "# a comment\n" + yaml.safe_dump(mixed, sort_keys=False)
    assert only(text, file=file, seen="later").pod.uid == only(POD).pod.uid


def test_what_an_api_server_wrote_changes_nothing() -> None:
    dumped = changed(status={"phase": "Running"}, metadata__uid="x", metadata__managedFields=[])
    dumped["metadata"]["creationTimestamp"] = None
    dumped["metadata"]["annotations"] = {HASH: "old", "kubernetes.io/config.seen": "before"}
    assert only(dumped).pod.uid == only(POD).pod.uid


@pytest.mark.parametrize(
    "other",
    [
        changed(metadata__name="other"),
        changed(metadata__namespace="other"),
        changed(metadata__labels={"app": "x"}),
        changed(metadata__annotations={"a": "b"}),
        changed(spec__containers=[{"name": "main", "image": "nginx:2"}]),
        changed(spec__hostNetwork=True),
    ],
)
def test_any_other_content_is_another_pod(other: dict[str, Any]) -> None:
    assert only(other).pod.uid != only(POD).pod.uid


def test_another_node_has_another_pod() -> None:
    assert only(POD, node="node2").pod.uid != only(POD).pod.uid


def test_lists_and_several_documents_hold_several_pods() -> None:
    second = changed(metadata__name="second")
    bare = {key: value for key, value in second.items() if key in {"metadata", "spec"}}
    for document in (
        {"apiVersion": "v1", "kind": "PodList", "items": [POD, bare]},
        {"apiVersion": "v1", "kind": "List", "items": [POD, second]},
        yaml.safe_dump_all([POD, None, second]),
    ):
        found = load(document)
        assert [one.pod.metadata.name for one in found.pods] == ["web-node1", "second-node1"]
        assert found.errors == ()


def test_a_bad_pod_in_a_file_leaves_the_others() -> None:
    text = yaml.safe_dump_all([POD, {"kind": "Service", "apiVersion": "v1"}])
    found = load(text)
    assert len(found.pods) == 1
    assert [(one.line, one.key) for one in found.errors] == [(text.count("\n"), "")]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("apiVersion: v1\nkind: Deployment", 2, "'Deployment' cannot be run from a manifest"),
        ("apiVersion: v2\nkind: Pod", 1, "apiVersion: 'v2' is not known"),
        ("kind: Pod", 1, "apiVersion: is missing"),
        ("apiVersion: v1", 1, "kind: is missing"),
        ("- a", 1, "no Kubernetes object"),
        ("apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Node", 5, "items[0]: kind"),
        ("apiVersion: v1\nkind: List\nitems: 5", 3, "must be a list"),
        ("apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: 5", 1, "metadata: is missing"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n"
            "  - name: a\n    image: 5\n",
            7,
            "spec.containers[0].image: expected str, got int",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: A_b\nspec: {}",
            4,
            "metadata.name: 'A_b' is no name",
        ),
        ("apiVersion: v1\nkind: Pod\nmetadata: {}\nspec: {}", 3, "metadata.name: is missing"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: A}\nspec: {}", 3, "namespace"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {}\nfoo: 1", 5, "no such field"),
        ("apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  nme: b\nspec: {}", 5, "metadata.nme"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  annotations:\n"
            "    kubernetes.io/config.mirror: x\nspec: {}",
            5,
            "mirror pod",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  nodeName: far",
            5,
            "spec.nodeName: 'far' is another node",
        ),
        ("a: [", 1, "no YAML"),
        ("", 0, "holds no pod"),
        ("# nothing\n---\n", 0, "holds no pod"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, line: int, said: str) -> None:
    found = load(text)
    assert found.pods == ()
    assert said in found.errors[0].text
    assert (found.errors[0].file, found.errors[0].line) == ("a.yaml", line)


def test_a_pod_with_errors_is_known_by_name_if_it_has_one() -> None:
    assert load(changed(spec__containers=5)).errors[0].key == "prod/web-node1"
    assert load(changed(metadata__name=5)).errors[0].key == ""


def test_what_is_no_text_and_what_is_too_large_is_told() -> None:
    assert parse(b"a: 1\n\xff", "a", "n", fine).errors[0].line == 2
    assert "bytes are more" in parse(b"#" * (MAX_BYTES + 1), "a", "n", fine).errors[0].text


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse(b"\xef\xbb\xbf" + json.dumps(POD).encode(), "a", "n", fine).errors == ()


def test_nothing_that_only_an_api_server_can_give_is_accepted() -> None:
    pod = changed(
        spec__serviceAccountName="x",
        spec__imagePullSecrets=[{"name": "x"}],
        spec__ephemeralContainers=[{"name": "x"}],
        spec__volumes=[
            {"name": "a", "configMap": {"name": "x"}},
            {"name": "b", "secret": {"secretName": "x"}},
            {"name": "c", "persistentVolumeClaim": {"claimName": "x"}},
            {"name": "d", "projected": {"sources": [{"serviceAccountToken": {"path": "x"}}]}},
        ],
    )
    pod["spec"]["containers"][0] |= {
        "env": [
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "x", "key": "y"}}},
            {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "envFrom": [{"secretRef": {"name": "x"}}],
    }
    found = load(pod)
    assert found.pods == ()
    assert [one.text.split(": ")[0] for one in found.errors] == [
        "spec.serviceAccountName",
        "spec.imagePullSecrets",
        "spec.ephemeralContainers",
        "spec.volumes[0].configMap",
        "spec.volumes[1].secret",
        "spec.volumes[2].persistentVolumeClaim",
        "spec.volumes[3].projected.sources[0].serviceAccountToken",
        "spec.containers[0].env[0].valueFrom.configMapKeyRef",
        "spec.containers[0].envFrom[0].secretRef",
    ]
    assert {one.key for one in found.errors} == {"prod/web-node1"}


def test_what_the_check_finds_is_told_with_its_line() -> None:
    def check(pod: Pod, spec: Mapping[str, Any]) -> Sequence[str]:
        assert pod.metadata.name == "web-n"
        return [f"spec.containers[0].image: {spec['containers'][0]['image']} is bad"]

    text = yaml.safe_dump(POD, sort_keys=True)
    found = parse(text.encode(), "a", "n", check)
    lines = text.splitlines()
    assert lines[found.errors[0].line - 1].strip() == "- image: nginx:1"


def test_of_two_pods_with_one_name_the_first_file_wins_and_the_other_is_told() -> None:
    first, other = only(POD, file="a"), only(changed(spec__hostPID=True), file="b")
    third = only(changed(metadata__name="third"), file="b")
    for order in (("b", "a"), ("a", "b")):
        files = {"a": [first], "b": [other, third]}
        pods, errors = merge({name: files[name] for name in order})
        assert set(pods) == {first.pod.uid, third.pod.uid}
        assert [(one.file, one.line) for one in errors] == [("b", 1)]
        assert "in a (line 1) too" in errors[0].text


def test_the_same_pod_twice_is_told_even_if_its_content_is_the_same() -> None:
    pods, errors = merge({"a": [only(POD)], "b": [only(POD, file="b")]})
    assert (len(pods), len(errors)) == (1, 1)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
FIELDS = (
    "metadata", "spec", "metadata__name", "metadata__labels", "metadata__annotations",
    "metadata__namespace", "spec__containers", "spec__volumes", "spec__tolerations",
    "spec__nodeName", "spec__serviceAccountName", "apiVersion", "kind", "status",
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FIELDS), anything)
def test_surprising_types_are_errors_with_a_sentence(field: str, value: Any) -> None:
    found = load(changed(**{field: value}))
    assert bool(found.pods) != bool(found.errors)
    assert all(one.text and "Traceback" not in one.text for one in found.errors)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["volumes", "projected", "env", "envFrom", "valueFrom"]), anything)
def test_surprising_types_where_references_are_looked_for(where: str, value: Any) -> None:
    pod = changed()
    container = pod["spec"]["containers"][0]
    if where == "volumes":
        pod["spec"]["volumes"] = [value]
    elif where == "projected":
        pod["spec"]["volumes"] = [{"name": "a", "projected": value}]
    elif where == "valueFrom":
        container["env"] = [{"name": "A", "valueFrom": value}]
    else:
        container[where] = [value]
    found = load(pod)
    assert bool(found.pods) != bool(found.errors)
