"""Fields of a pod as text."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.errors import PodError
from nodeagent.pods.fieldpath import PLAIN, field_value, formatted, supported
from nodeagent.pods.host import Host
from nodeagent.pods.model import Meta, Pod, PodSpec

HOST = Host("n1", "192.0.2.1", "n1", Path("/x"))
POD = Pod(
    Meta("web", "shop", "u-1", labels={"app": "web", "a.b/c": "d"}, annotations={"note": 'x"\n'}),
    PodSpec(node_name="n7", service_account_name="robot"),
)


def value(path: str, *, whole: bool = False, pod: Pod = POD) -> str:
    return field_value(pod, path, pod_ip="10.1.2.3", host=HOST, whole=whole)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("metadata.name", "web"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['app']", "web"),
        ("metadata.labels['a.b/c']", "d"),
        ("metadata.annotations['note']", 'x"\n'),
        ("metadata.annotations['none']", ""),
        ("spec.nodeName", "n7"),
        ("spec.serviceAccountName", "robot"),
        ("status.podIP", "10.1.2.3"),
        ("status.podIPs", "10.1.2.3"),
        ("status.hostIP", "192.0.2.1"),
        ("status.hostIPs", "192.0.2.1"),
    ],
)
def test_a_field_is_found_by_its_path(path: str, wanted: str) -> None:
    assert supported(path)
    assert value(path) == wanted


@pytest.mark.parametrize(
    "path", ["", "metadata", "metadata.labels", "metadata.labels[app]", "spec.x", "status.phase",
             "metadata.labels['a']x", "metadata.name['a']"]
)  # fmt: skip
def test_another_path_is_refused_for_good_and_the_right_ones_are_named(path: str) -> None:
    assert not supported(path)
    with pytest.raises(PodError, match=r"metadata\.name") as caught:
        value(path)
    assert caught.value.reason == "CreateContainerConfigError"
    assert caught.value.final


def test_all_labels_at_once_are_for_files_only() -> None:
    assert value("metadata.labels", whole=True) == 'a.b/c="d"\napp="web"'
    assert value("metadata.annotations", whole=True) == 'note="x\\"\\n"'


def test_in_the_hosts_network_the_pods_address_is_the_hosts() -> None:
    pod = Pod(Meta("web", "shop", "u"), PodSpec(host_network=True))
    assert value("status.podIP", pod=pod) == "192.0.2.1"


def test_a_static_pod_without_node_name_is_on_this_node() -> None:
    assert value("spec.nodeName", pod=Pod(Meta("web"), PodSpec())) == "n1"


def test_every_plain_path_has_a_value() -> None:
    assert all(isinstance(value(path), str) for path in PLAIN)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("\a\b\f\n\r\t\v", r"\a\b\f\n\r\t\v"),
        ("\x01\x7f", r"\x01\x7f"),
        ("\x85\u200b", r"\u0085\u200b"),
        ("\U000e0001", r"\U000e0001"),
        ("é☃", "é☃"),
        ("\\", r"\\"),
    ],
)
def test_values_are_quoted_as_go_does(text: str, quoted: str) -> None:
    assert formatted({"k": text}) == f'k="{quoted}"'


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,8}", fullmatch=True),
        st.text(st.characters(min_codepoint=32, max_codepoint=0xFFFF, exclude_categories=["Cs"])),
    )
)
def test_each_value_is_one_line_that_can_be_read_back(values: dict[str, str]) -> None:
    lines = formatted(values).split("\n") if values else []
    read = {}
    for line in lines:
        key, _, quoted = line.partition("=")
        read[key] = json.loads(quoted.replace("\\x7f", "\\u007f"))
    assert read == values
    assert list(read) == sorted(values)
