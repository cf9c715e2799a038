"""Whatever a server sends, decoding gives a valid value, a sentence, or a ValueError."""

import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from netd.services.endpoints import decode_endpoints, decode_slice
from netd.services.model import decode_service
from tests.netd.services.objects import (
    balanced,
    endpoint,
    endpoint_slice,
    endpoints_object,
    raw,
)
from tests.netd.services.valid import assert_valid

SERVICE = balanced(
    "203.0.113.5",
    "2001:db8::5",
    externalIPs=["198.51.100.1"],
    loadBalancerSourceRanges=["192.0.2.0/24"],
    ports=[
        {"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30061},
        {"name": "dns", "protocol": "UDP", "port": 53},
    ],
    sessionAffinity="ClientIP",
    sessionAffinityConfig={"clientIP": {"timeoutSeconds": 600}},
    externalTrafficPolicy="Local",
    healthCheckNodePort=30100,
)
SLICE = endpoint_slice(
    endpoint("10.1.2.3"), endpoint("10.1.2.4", topology={"kubernetes.io/hostname": "node2"})
)
ENDPOINTS = endpoints_object(
    {
        "addresses": [{"ip": "10.1.2.3", "nodeName": "node1"}],
        "notReadyAddresses": [{"ip": "10.1.2.4"}],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }
)

telling = st.sampled_from(
    ["", "None", "Local", "ClientIP", "UDP", "IPv6", "Proxy", "ExternalName", "10.0.0.9", "::1",
     "0.0.0.0/0", "::/0", "127.0.0.1", "a\n-A X", '"', "x" * 300, "\ud800", "é", "a", "b"]
)  # fmt: skip
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | telling | st.text(max_size=8)
    | st.sampled_from([0, 1, 65535, 65536, 2**63, 10**40])
)  # fmt: skip
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(telling, inner, max_size=3),
    max_leaves=6,
)


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every container below *node* with each of its keys or indexes."""
    keys: list[Any] = []
    if isinstance(node, dict):
        keys = list(node)
    elif isinstance(node, list):
        keys = list(range(len(node)))
    found = [(node, key) for key in keys]
    for key in keys:
        found += places(node[key])
    return found


@st.composite
def bent(draw: st.DrawFn, document: dict[str, Any]) -> dict[str, Any]:
    """*document* after one to four accidents."""
    made = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 4))):
        spots = places(made)
        if not spots:
            break
        holder, key = draw(st.sampled_from(spots))
        action = draw(st.sampled_from(["replace", "replace", "remove", "double"]))
        if action == "replace":
            holder[key] = draw(anything)
        elif action == "remove":
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(draw(st.integers(0, len(holder))), copy.deepcopy(holder[key]))
    return made


def check_service(text: bytes) -> None:
    try:
        key, value, troubles = decode_service(text)
    except ValueError as error:
        assert str(error).isascii()
        assert len(str(error)) < 300
        return
    for trouble in troubles:
        assert_valid(trouble)
    if value is not None:
        assert value.key == key
        assert_valid(value)
    assert decode_service(text) == (key, value, troubles)


def check_slice(text: bytes) -> None:
    try:
        _, value, troubles = decode_slice(text)
    except ValueError as error:
        assert str(error).isascii()
        return
    for trouble in troubles:
        assert_valid(trouble)
    if value is not None:
        assert_valid(value)


def check_endpoints(text: bytes) -> None:
    try:
        key, values, troubles = decode_endpoints(text)
    except ValueError as error:
        assert str(error).isascii()
        return
    for trouble in troubles:
        assert_valid(trouble)
    for value in values:
        assert value.service == key
        assert_valid(value)


@given(bent(SERVICE))
def test_a_bent_service_is_valid_or_refused(document: Any) -> None:
    check_service(raw(document))


@given(bent(SLICE))
def test_a_bent_slice_is_valid_or_refused(document: Any) -> None:
    check_slice(raw(document))


@given(bent(ENDPOINTS))
def test_a_bent_endpoints_object_is_valid_or_refused(document: Any) -> None:
    check_endpoints(raw(document))


@given(st.data())
def test_bytes_that_were_cut_or_changed_are_valid_or_refused(data: st.DataObject) -> None:
    document, check = data.draw(
        st.sampled_from(
            [(SERVICE, check_service), (SLICE, check_slice), (ENDPOINTS, check_endpoints)]
        )
    )
    text = bytearray(raw(document))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text)))
        text[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    check(bytes(text))


@given(st.randoms(use_true_random=False), st.dictionaries(st.text(max_size=5), anything))
def test_the_order_of_keys_and_foreign_fields_change_nothing(
    random: Any, foreign: dict[str, Any]
) -> None:
    def shuffled(node: Any) -> Any:
        if isinstance(node, dict):
            pairs = [(key, shuffled(value)) for key, value in node.items()]
            random.shuffle(pairs)
            return dict(pairs)
        return [shuffled(one) for one in node] if isinstance(node, list) else node

    annotated = copy.deepcopy(SERVICE)
    annotated["metadata"]["annotations"] = foreign
    annotated["spec"]["selector"] = foreign
    assert decode_service(raw(shuffled(annotated))) == decode_service(raw(SERVICE))
    assert decode_slice(raw(shuffled(SLICE))) == decode_slice(raw(SLICE))


def test_the_unbent_objects_are_whole() -> None:
    for decode, document in (
        (decode_service, SERVICE), (decode_slice, SLICE), (decode_endpoints, ENDPOINTS),
    ):  # fmt: skip
        _, value, troubles = decode(json.dumps(document).encode())
        assert value
        assert troubles == ()
