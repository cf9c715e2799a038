"""Text to documents: values as Kubernetes reads them, lines, and limits."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.sources.documents import DocumentError, path_of, read


def value(text: str) -> Any:
    (document,) = read(text)
    return document.value


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("yes", True), ("off", False), ("y", "y"), ("~", None), ("0644", 420), ("0o644", 420),
        ("-0x1F", -31), ("0b101", 5), ("1_000", 1000), ("1e3", 1000.0), (".5", 0.5),
        ("22:22", "22:22"), ("2024-01-01", "2024-01-01"), ("1.2.3", "1.2.3"), ("08", 8.0),
        ("1e999", "1e999"), (".inf", ".inf"), ("-", None), ("=", "="), ("'5'", "5"),
        ("!!str 5", "5"), ("! 5", "5"), ("!!int 5", 5), ("+", "+"), ("_1", "_1"),
        ("9" * 70, "9" * 70),
    ],
)  # fmt: skip
def test_plain_scalars_are_read_as_kubernetes_reads_yaml(text: str, wanted: Any) -> None:
    found = value(f"a: {text}" if text != "-" else "a:\n-")["a"]
    found = found[0] if isinstance(found, list) else found
    assert (type(found), found) == (type(wanted), wanted)


def test_keys_are_text_as_written() -> None:
    assert value("{1: a, on: b, ~: c}") == {"1": "a", "on": "b", "~": "c"}


def test_merge_keys_and_aliases_are_put_in_and_own_keys_win() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [{x: 5}, *a]}\nd: *a"
    assert value(text) == {
        "a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 5, "y": 2}, "d": {"x": 1, "y": 2},
    }  # fmt: skip


def test_several_documents_and_the_lines_of_their_fields() -> None:
    first, second = read("# one\na:\n- b: 1\n  c: 2\n---\n---\nz: {y: 1}\n")
    assert (first.line, first.line_of(("a", 0, "c")), first.line_of(("a", 0, "no"))) == (2, 4, 3)
    assert (second.line, second.line_of(("z", "y")), second.line_of(("q",))) == (7, 7, 7)
    assert first.line_of(("a", 7)) == 2


def test_json_documents_one_after_the_other_with_lines_and_escapes() -> None:
    text = '{"a": "\\ud83d\\ude00\\/"}\n\n{"b": [1,\n\t{"c": null}]}\n'
    first, second = read(text)
    assert (first.value, second.value) == ({"a": "😀/"}, {"b": [1, {"c": None}]})
    assert (second.line, second.line_of(("b", 1, "c"))) == (3, 4)
    assert first.line_of(("a",)) == 1


def test_a_flow_mapping_is_no_json_but_yaml() -> None:
    assert value("{a: 1, b: [x]}") == {"a": 1, "b": ["x"]}


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\nb: [1", 2, "expected"),
        ("a: 1\nb: [1\n\n", 2, "expected"),
        ('{"a": 1,\n"b": }', 2, "no JSON"),
        ("a: 1\nb: 2\na: 3", 3, "first in line 1"),
        ('{"a": 1,\n"a": 2}', 2, "a second time"),
        ("a: *x", 1, "stands for nothing"),
        ("a: &x [*x]", 1, "stands for nothing"),
        ("a: !!python/object:os.system x", 1, "not supported"),
        ("a: !!map {}\nb: !x []", 2, "not supported"),
        ("a: !!int x", 1, "not supported"),
        ("a: 1\n\x00", 2, "no text file"),
        ("? [a]\n: b", 1, "a key must be text"),
        ("a: {<<: 5}", 1, "needs a mapping"),
        ("\n" + "[" * 5000, 2, "nested deeper"),
        ('{"a":' * 150 + "1" + "}" * 150, 0, "nested deeper"),
        ('{"a":' * 90_000, 0, "deeper"),
        ('{"a": "\\ud800"}', 0, "surrogate"),
        ('{"a": NaN}', 0, "no number"),
        ('{"a": 1,}', 1, "no JSON"),
        ('{"a": 1', 1, "no JSON"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_line(text: str, line: int, said: str) -> None:
    with pytest.raises(DocumentError, match=said) as caught:
        read(text)
    assert caught.value.line == line or not line


def test_aliases_that_multiply_are_stopped_soon() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 40)]
    with pytest.raises(DocumentError, match="too large"):
        read("\n".join(lines))


def test_long_texts_and_merges_that_multiply_are_stopped_soon() -> None:
    long = f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 100)}]"
    keys = ", ".join(f"k{n}: 1" for n in range(1000))
    merged = f"a: &a {{{keys}}}\nb:\n" + "- <<: *a\n" * 1000
    for text in (long, merged):
        with pytest.raises(DocumentError, match="too large"):
            read(text)


def test_aliases_cannot_nest_deeper_than_a_text_may() -> None:
    deep = "[" * 60 + "x" + "]" * 60
    text = f"a: &a {deep}\nb: {'[' * 60}*a{']' * 60}"
    with pytest.raises(DocumentError, match="nested deeper"):
        read(text)


def test_paths_are_taken_from_the_beginning_of_a_sentence() -> None:
    assert path_of("spec.containers[10].env[2].name: is missing") == (
        "spec", "containers", 10, "env", 2, "name",
    )  # fmt: skip
    assert path_of("something else") == ("something",)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(max_size=5), plain, max_size=4))
def test_what_was_written_as_json_or_yaml_is_read_again(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    assert value(text) == document
    dumped = yaml.safe_dump(json.loads(text), allow_unicode=False, default_style='"')
    assert all(isinstance(one.value, dict) for one in read(dumped))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="{}[]:,-&*!|>'\"#%@`<? \n\tab01.~", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        for document in read(text):
            json.dumps(document.value)
            document.line_of(("a", 0))
    except DocumentError as error:
        assert error.text
        assert error.line >= 0
