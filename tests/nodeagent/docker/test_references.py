"""Image references are read as Docker reads them."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.docker.references import Reference, names, parse

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/me/app:1", "docker.io/me/app:1"),
        ("me/app:1.0", "docker.io/me/app:1.0"),
        ("localhost/app", "localhost/app:latest"),
        ("reg:5000/a/b/c:x", "reg:5000/a/b/c:x"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ("quay.io/a/b@sha256:" + HEX, "quay.io/a/b@sha256:" + HEX),
        ("quay.io/a/b:1@sha256:" + HEX, "quay.io/a/b:1@sha256:" + HEX),
        ("sha256:" + HEX, "sha256:" + HEX),
        (HEX, "sha256:" + HEX),
    ],
)
def test_short_forms_mean_the_long_ones(text: str, full: str) -> None:
    assert str(parse(text)) == full
    assert parse(full) == parse(text)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no name"),
        ("Nginx", "lower case"),
        ("me/App", "lower case"),
        ("nginx:", "tag"),
        ("nginx:a b", "tag"),
        ("nginx@sha256:1234", "digest"),
        ("nginx@", "digest"),
        ("-x", "not a repository"),
        ("a//b", "not a repository"),
        ("http://reg/a", "registry"),
        ("reg.:5000/a", "registry"),
        ("a" * 256, "255"),
        ("nginx\n", "not a repository"),
    ],
)
def test_bad_references_say_what_is_wrong(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse(text)


@settings(max_examples=200)
@given(st.text(alphabet="aZ0.:/@-_[ é", max_size=30))
def test_any_text_is_a_reference_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        found = parse(text)
        assert parse(str(found)) == found


def test_only_digests_and_ids_are_pinned() -> None:
    assert parse("sha256:" + HEX).pinned
    assert parse("a@sha256:" + HEX).pinned
    assert not parse("a:1").pinned


def test_a_digest_is_pulled_in_place_of_a_tag() -> None:
    assert parse("a:1@sha256:" + HEX).pull_tag == "sha256:" + HEX
    assert parse("a").pull_tag == "latest"


def test_a_name_does_not_mean_an_image_whose_id_begins_so() -> None:
    image = "sha256:beef" + "0" * 60
    assert not names(parse("beef"), image, ("busybox:1",))
    assert names(parse("docker.io/library/busybox:1"), image, ("busybox:1",))
    assert names(Reference(image_id=image), image, ())
    assert names(parse(f"a@sha256:{HEX}"), image, ("??", f"a@sha256:{HEX}"))
    assert not names(parse("a:2"), image, ("a:1",))
