"""JSON patch, merge patch and strategic merge patch."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.api.kinds import DEPLOYMENT, POD, SERVICE
from lab.api.objects import Json, StatusError
from lab.api.patch import JSON, MERGE, STRATEGIC, apply, merge_patch

PORTS = [{"name": "a", "port": 80, "protocol": "TCP"}, {"name": "b", "port": 81}]
TWO = {"spec": {"ports": PORTS}}


def ports(*entries: Json) -> Json:
    """A service with these ports."""
    return {"spec": {"ports": list(entries)}}


@pytest.mark.parametrize(
    ("patch", "wanted"),
    [
        ([{"port": 81, "name": "c"}], [PORTS[0], {"name": "c", "port": 81}]),
        ([{"port": 82}], [{"port": 82}, *PORTS]),
        ([{"port": 80, "$patch": "delete"}], [PORTS[1]]),
        ([{"$patch": "replace"}, {"port": 1}], [{"port": 1}]),
        ([{"port": 80, "protocol": None}], [{"name": "a", "port": 80}, PORTS[1]]),
    ],
)
def test_a_list_with_a_key_is_merged_by_it(patch: list[Json], wanted: list[Json]) -> None:
    """The ports of a service by number; new entries come first, as in kube."""
    assert apply(SERVICE, STRATEGIC, TWO, {"spec": {"ports": patch}}) == ports(*wanted)


def test_the_order_of_elements_can_be_set() -> None:
    """What apply sends with every list that it changes."""
    order = {"$setElementOrder/ports": [{"port": 81}, {"port": 80}]}
    assert apply(SERVICE, STRATEGIC, TWO, {"spec": order}) == ports(PORTS[1], PORTS[0])


def test_lists_without_a_key_are_replaced_and_sets_are_joined() -> None:
    """External addresses are replaced as a whole, finalizers added to or taken from."""
    live = {"metadata": {"finalizers": ["a", "b"]}, "spec": {"externalIPs": ["1.1.1.1"]}}
    patch = {
        "metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]},
        "spec": {"externalIPs": ["2.2.2.2"]},
    }
    patched = apply(SERVICE, STRATEGIC, live, patch)
    assert sorted(patched["metadata"]["finalizers"]) == ["b", "c"]
    assert patched["spec"] == {"externalIPs": ["2.2.2.2"]}


def test_a_map_can_be_replaced_emptied_or_reduced_to_some_keys() -> None:
    """$patch and $retainKeys."""
    live = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    keep = {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}
    assert apply(DEPLOYMENT, STRATEGIC, live, {"spec": keep}) == {
        "spec": {"strategy": {"type": "Recreate"}}
    }
    only = {"spec": {"strategy": {"$patch": "replace", "type": "Recreate"}}}
    assert apply(DEPLOYMENT, STRATEGIC, live, only) == {"spec": {"strategy": {"type": "Recreate"}}}
    gone = {"spec": {"strategy": {"$patch": "delete"}}}
    assert apply(DEPLOYMENT, STRATEGIC, live, gone) == {"spec": {"strategy": {}}}


def test_containers_are_merged_deep() -> None:
    """One image changes; the environment of the same container stays."""
    live = {"spec": {"containers": [{"name": "a", "image": "x", "env": [{"name": "A"}]}]}}
    patch = {"spec": {"containers": [{"name": "a", "image": "y", "env": [{"name": "B"}]}]}}
    (container,) = apply(POD, STRATEGIC, live, patch)["spec"]["containers"]
    assert container["image"] == "y"
    assert sorted(env["name"] for env in container["env"]) == ["A", "B"]


@pytest.mark.parametrize(
    ("operations", "wanted"),
    [
        ([{"op": "add", "path": "/a/-", "value": 3}], {"a": [1, 2, 3], "b/~": 0}),
        ([{"op": "add", "path": "/a/0", "value": 0}], {"a": [0, 1, 2], "b/~": 0}),
        ([{"op": "remove", "path": "/b~1~0"}], {"a": [1, 2]}),
        ([{"op": "replace", "path": "/a/1", "value": 9}], {"a": [1, 9], "b/~": 0}),
        ([{"op": "move", "from": "/a/0", "path": "/c"}], {"a": [2], "b/~": 0, "c": 1}),
        ([{"op": "copy", "from": "/a", "path": "/c"}], {"a": [1, 2], "b/~": 0, "c": [1, 2]}),
        ([{"op": "test", "path": "/a", "value": [1, 2]}], {"a": [1, 2], "b/~": 0}),
    ],
)
def test_json_patches_do_as_rfc_6902_says(operations: list[Json], wanted: Json) -> None:
    """Each operation, and the escapes of a pointer."""
    assert apply(POD, JSON, {"a": [1, 2], "b/~": 0}, operations) == wanted


@pytest.mark.parametrize(
    "operations",
    [
        [{"op": "test", "path": "/a", "value": 2}],
        [{"op": "remove", "path": "/nope"}],
        [{"op": "replace", "path": "/nope/x", "value": 1}],
        [{"op": "jump", "path": "/a", "value": 1}],
        [{"op": "add", "path": "a", "value": 1}],
        [{"path": "/a"}],
        [7],
    ],
)
def test_an_operation_that_cannot_be_done_is_refused(operations: list[Any]) -> None:
    """422, and the object is untouched."""
    live: Json = {"a": 1}
    with pytest.raises(StatusError) as caught:
        apply(POD, JSON, live, operations)
    assert caught.value.code == 422 and live == {"a": 1}


@pytest.mark.parametrize(
    ("kind", "patch"),
    [
        (MERGE, [1]),
        (JSON, {"a": 1}),
        (STRATEGIC, {"spec": {"ports": [{"name": "no key"}]}}),
        (STRATEGIC, {"spec": {"ports": [7]}}),
        (STRATEGIC, {"spec": {"$setElementOrder/ports": 7}}),
        (STRATEGIC, {"spec": {"$patch": "explode"}}),
    ],
)
def test_a_patch_of_the_wrong_shape_is_refused(kind: str, patch: object) -> None:
    """400 with what is wrong."""
    with pytest.raises(StatusError) as caught:
        apply(SERVICE, kind, copy.deepcopy(TWO), patch)
    assert caught.value.code == 400


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=3), JSONS, max_size=4)


@given(live=OBJECTS, patch=OBJECTS)
def test_a_merge_patch_applied_twice_is_applied_once(live: Json, patch: Json) -> None:
    """And it never changes what it was given."""
    before = copy.deepcopy(live)
    once = merge_patch(live, patch)
    assert merge_patch(once, patch) == once
    assert live == before


KEYED = st.lists(
    st.fixed_dictionaries({"port": st.integers(1, 6)}, optional={"name": st.sampled_from("abc")}),
    unique_by=lambda one: one["port"],
    max_size=5,
)


@given(live=KEYED, patch=KEYED)
def test_a_strategic_merge_holds_both_sides_once(live: list[Json], patch: list[Json]) -> None:
    """Every key of either side is there once; the patch wins; twice is the same as once."""
    once = apply(SERVICE, STRATEGIC, ports(*live), {"spec": {"ports": patch}})
    merged = once["spec"]["ports"]
    keys = [one["port"] for one in merged]
    assert sorted(keys) == sorted({one["port"] for one in (*live, *patch)})
    for one in patch:
        found = next(m for m in merged if m["port"] == one["port"])
        assert one.items() <= found.items()
    assert apply(SERVICE, STRATEGIC, once, {"spec": {"ports": patch}})["spec"]["ports"] == [*merged]
