"""Flags about the node: what they mean, and what is refused with the offending part."""

import re
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.node.pressure import parse_thresholds
from nodeagent.node.settings import (
    kubelet_version,
    parse_labels,
    parse_reserved,
    parse_taints,
    total,
)

# semver.org, clause 2, 9 and 10, with the "v" that Kubernetes puts before it.
SEMVER = re.compile(r"v1\.20\.0(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)")


@pytest.mark.parametrize("release", ["0.3.0", "0.3.0.dev1+g12ab", "1", "~a..b", ""])
def test_the_version_is_semantic_and_no_prerelease(release: str) -> None:
    assert SEMVER.fullmatch(kubelet_version(release))


def test_labels_are_read() -> None:
    text = "disk=ssd, example.com/zone=a,empty="
    assert parse_labels(text) == {"disk": "ssd", "example.com/zone": "a", "empty": ""}
    assert parse_labels("") == {}


@pytest.mark.parametrize(
    "text", ["a", "=b", "a=b c", "-a=b", "A_/x=1", "a/b/c=1", f"a={'x' * 64}", f"{'x' * 64}=a"]
)
def test_bad_labels_are_named(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text.partition("=")[0])[1:-1] or "''")):
        parse_labels(text)


def test_taints_are_read() -> None:
    assert parse_taints("a=b:NoSchedule,c:NoExecute") == (
        {"key": "a", "value": "b", "effect": "NoSchedule"},
        {"key": "c", "effect": "NoExecute"},
    )


@pytest.mark.parametrize("text", ["a", "a=b", "a:Never", ":NoSchedule", "a:NoExecute,a:NoExecute"])
def test_bad_taints_are_named(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text.split(",", maxsplit=1)[0])):
        parse_taints(text)


def test_reservations_add_up() -> None:
    found = total(parse_reserved("cpu=500m,memory=1Gi"), parse_reserved("cpu=1,pid=100"))
    assert found == {"cpu": Fraction(3, 2), "memory": 2**30, "pid": 100}


@pytest.mark.parametrize("text", ["cpu", "gpu=1", "cpu=x", "memory=-1Gi", "cpu=1,cpu=1"])
def test_bad_reservations_are_named(text: str) -> None:
    with pytest.raises(ValueError, match=text.split("=", maxsplit=1)[0]):
        parse_reserved(text)


@pytest.mark.parametrize("parse", [parse_labels, parse_taints, parse_reserved, parse_thresholds])
@given(text=st.text(alphabet="ab=:,<.%/ 19Mi-_\n", max_size=30) | st.text(max_size=20))
@settings(max_examples=150)
def test_any_text_is_read_or_refused_in_a_sentence(
    parse: Callable[[str], object], text: str
) -> None:
    try:
        parse(text)
    except ValueError as error:
        assert str(error)
