"""Credentials are found for the images they are for, and never shown."""

import base64
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.api.port import SecretData
from nodeagent.docker.keychain import CONFIG_JSON, CONFIG_LEGACY, HUB_ADDRESS, Keychain, parse
from nodeagent.docker.references import parse as reference


def config(**auths: Any) -> bytes:
    return json.dumps({"auths": auths}).encode()


def entries(*names: str) -> bytes:
    """A file with a user of the entry's own name for each of *names*."""
    return config(**{one: {"username": one, "password": "p"} for one in names})


def secret(data: bytes) -> SecretData:
    return SecretData(CONFIG_JSON, {".dockerconfigjson": data})


def users(data: bytes, image: str) -> list[str]:
    found = Keychain([]).candidates(reference(image), [secret(data)])
    return [one["username"] for one in found]


@pytest.mark.parametrize(
    ("entry", "image", "matches"),
    [
        ("reg.io", "reg.io/a", True),
        ("https://reg.io", "reg.io/a/b", True),
        ("https://reg.io/v2/", "reg.io/a/b", True),
        ("http://reg.io:5000/v1/", "reg.io:5000/a", True),
        ("reg.io", "reg.io:5000/a", False),
        ("reg.io:5000", "reg.io/a", False),
        ("REG.io", "reg.io/a", True),
        ("reg.io/team", "reg.io/team/app", True),
        ("reg.io/team", "reg.io/team", True),
        ("reg.io/team", "reg.io/teams/app", False),
        ("reg.io/v1team", "reg.io/v1team/app", True),
        ("*.reg.io", "eu.reg.io/a", True),
        ("*.reg.io", "a.eu.reg.io/a", False),
        ("*.*.reg.io", "a.eu.reg.io/a", True),
        ("r*g.io:5000", "reg.io:5000/a", True),
        ("https://index.docker.io/v1/", "nginx", True),
        ("docker.io", "me/app", True),
        ("index.docker.io/me", "me/app", True),
        ("index.docker.io/you", "me/app", False),
        ("quay.io", "nginx", False),
    ],
)
def test_entries_match_as_the_kubelets_do(entry: str, image: str, *, matches: bool) -> None:
    assert users(entries(entry), image) == ([entry] if matches else [])


def test_all_candidates_come_the_most_specific_first() -> None:
    names = ("*.reg.io", "eu.reg.io", "eu.reg.io/team/app", "eu.reg.io/team")
    assert users(entries(*names), "eu.reg.io/team/app:1") == [
        "eu.reg.io/team/app", "eu.reg.io/team", "eu.reg.io", "*.reg.io",
    ]  # fmt: skip


def test_a_user_may_be_written_in_three_ways() -> None:
    auth = base64.b64encode(b"me:se:cret\0").decode()
    data = config(
        **{
            "reg.io/a": {"auth": auth},
            "reg.io/b": {"username": "you", "password": "x", "auth": auth},
            "reg.io/c": {"auth": auth, "identitytoken": "tok"},
        }
    )
    find = Keychain([]).candidates
    [a] = find(reference("reg.io/a"), [secret(data)])
    assert a == {"username": "me", "password": "se:cret", "serveraddress": "reg.io"}
    [b] = find(reference("reg.io/b"), [secret(data)])
    assert b["username"] == "you"
    [c] = find(reference("reg.io/c"), [secret(data)])
    assert c == {"identitytoken": "tok", "serveraddress": "reg.io"}


def test_the_hub_is_named_as_docker_does() -> None:
    [found] = Keychain([]).candidates(reference("nginx"), [secret(entries("docker.io"))])
    assert found["serveraddress"] == HUB_ADDRESS


def test_secrets_of_the_old_type_have_entries_at_the_top() -> None:
    data = json.dumps({"reg.io": {"username": "u", "password": "p"}}).encode()
    old = SecretData(CONFIG_LEGACY, {".dockercfg": data})
    assert len(Keychain([]).candidates(reference("reg.io/a"), [old])) == 1


def test_files_come_after_secrets_and_are_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    keychain = Keychain([file, tmp_path / "missing"])
    want = reference("reg.io/team/a")
    assert keychain.candidates(want) == []
    file.write_bytes(entries("reg.io/team"))
    found = keychain.candidates(want, [secret(entries("reg.io"))])
    assert [one["username"] for one in found] == ["reg.io", "reg.io/team"]


def test_the_node_has_its_usual_files(tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_bytes(entries("reg.io"))
    keychain = Keychain.of_node(tmp_path / "kubelet", tmp_path)
    assert len(keychain.candidates(reference("reg.io/a"))) == 1


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"auths": 3}', "auths is not an object"),
        (config(x=3), "the entry for x is not an object"),
        (config(x={"auth": "%%"}), "not base64"),
        (config(x={"auth": "bm90aGluZw=="}), "not base64 of user:password"),
        (b'{"credsStore": "pass"}', "credsStore names a credential helper"),
        (b'{"credHelpers": {"x": "y"}}', "credHelpers names a credential helper"),
    ],
)
def test_what_cannot_be_used_is_named_once(
    data: bytes, word: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(data)
    keychain = Keychain([file])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert keychain.candidates(reference("x.io/a")) == []
    assert len(caplog.records) == 1
    assert word in caplog.text
    assert str(file) in caplog.text


def test_secrets_of_other_types_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Keychain([]).candidates(
            reference("a"), [SecretData("Opaque", {}), SecretData(CONFIG_JSON, {})]
        )
    assert "'Opaque'" in caplog.text
    assert ".dockerconfigjson" in caplog.text


def test_one_broken_entry_leaves_the_others() -> None:
    data = config(**{"bad.io": {"auth": "%"}, "reg.io": {"username": "u", "password": "p"}})
    assert users(data, "reg.io/a") == ["u"]


def test_no_secret_shows_in_a_repr() -> None:
    data = config(
        **{"a.io": {"username": "u", "password": "s3cret"}, "b.io": {"identitytoken": "s3cret"}}
    )
    found, _ = parse(data, "x")
    assert len(found) == 2
    assert "s3cret" not in repr(found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["auths", "auth", "username", "password", "identitytoken", "x.io"]),
            inner,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=150)
@given(JSON, st.booleans())
def test_any_document_is_read_or_named(document: object, legacy: bool) -> None:
    found, wrong = parse(json.dumps(document).encode(), "x", legacy=legacy)
    assert all(one.host for one in found)
    assert all(one.startswith("x: ") for one in wrong)
