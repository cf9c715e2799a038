"""Join tokens: their form, and what a Secret of the API makes of them."""

import string
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import LabError, UsageError
from lab.join import tokens
from lab.join.model import JOIN_GROUP
from lab.join.tokens import Token

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
TOKEN = Token("abcdef", "0123456789abcdef")


def stored(secret: dict[str, Any]) -> dict[str, Any]:
    """*secret* as the API server gives it back: what was text is base64 now."""
    data = {key: b64encode(value.encode()).decode() for key, value in secret["stringData"].items()}
    kept = {key: value for key, value in secret.items() if key != "stringData"}
    return {**kept, "data": data}


def test_a_new_token_is_one_that_can_be_read_and_is_never_the_same() -> None:
    """Both parts, in Kubernetes' alphabet."""
    made = {str(Token.new()) for _ in range(50)}
    assert len(made) == 50
    assert all(str(Token.parse(text)) == text for text in made)
    assert set("".join(made)) <= set(string.ascii_lowercase + string.digits + ".")


@pytest.mark.parametrize(
    "text",
    ["", "k3x9aa", "k3x9aa.7yqk2w0m5vfd81p", "K3X9AA.7yqk2w0m5vfd81pz", "k3x9aa-7yqk2w0m5vfd81pz",
     "k3x9aa.7yqk2w0m5vfd81pz0", "k3x9ää.7yqk2w0m5vfd81pz", "k3x9aa.7yqk2w0m5vfd81pz\nx"],
)  # fmt: skip
def test_what_is_no_token_is_refused_without_repeating_it(text: str) -> None:
    """A secret with a slip of the pen is still a secret."""
    with pytest.raises(UsageError, match="--token: this is no join token") as caught:
        Token.parse(text)
    assert not text or text not in str(caught.value)


def test_a_token_shows_its_secret_in_no_representation() -> None:
    """Such as a log would have."""
    assert TOKEN.secret not in repr(TOKEN)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("24h", 86400), ("90m", 5400), ("1h30m", 5400), ("1.5s", 2), ("60", 60)],
)
def test_a_time_to_live_is_gos_notation(text: str, seconds: int) -> None:
    """Rounded up to whole seconds, which is what the Secret can hold."""
    assert tokens.parse_ttl(text, "--ttl") == timedelta(seconds=seconds)


def test_no_time_at_all_is_for_ever() -> None:
    """As kubeadm has it."""
    assert tokens.parse_ttl("0", "--ttl") is None
    assert tokens.parse_ttl("0s", "--ttl") is None


@pytest.mark.parametrize("text", ["", "soon", "-1h", "1ms", "9000000h", "nan"])
def test_a_time_that_cannot_be_is_refused(text: str) -> None:
    """With the flag and how to write it."""
    with pytest.raises(UsageError, match=r"--ttl .*: use a time .*or 0 for ever"):
        tokens.parse_ttl(text, "--ttl")


def test_the_secret_is_what_kubernetes_takes_for_a_token() -> None:
    """Name, type and the keys of its documentation."""
    secret = tokens.secret_of(TOKEN, expires=NOW + timedelta(days=1), description="for a test")
    assert secret["metadata"] == {"name": "bootstrap-token-abcdef", "namespace": "kube-system"}
    assert secret["type"] == "bootstrap.kubernetes.io/token"
    assert secret["stringData"] == {
        "token-id": "abcdef",
        "token-secret": "0123456789abcdef",
        "description": "for a test",
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "auth-extra-groups": JOIN_GROUP,
        "expiration": "2026-11-22T12:00:00Z",
    }


def test_a_token_for_ever_has_no_expiration() -> None:
    """An empty one would be a time that cannot be read."""
    secret = tokens.secret_of(TOKEN, expires=None, description="")
    assert "expiration" not in secret["stringData"]


def test_what_was_written_is_read_again_without_the_secret() -> None:
    """All that ``barenode token list`` shows."""
    secret = tokens.secret_of(TOKEN, expires=NOW + timedelta(hours=1), description="for a test")
    info = tokens.described(stored(secret), NOW)
    assert info is not None
    assert (info.id, info.description, info.groups, info.usable) == (
        "abcdef", "for a test", (JOIN_GROUP,), True,
    )  # fmt: skip
    assert TOKEN.secret not in repr(info)


@given(st.integers(-200_000, 200_000))
def test_a_token_is_usable_until_its_time(seconds: int) -> None:
    """At the very second it is over."""
    secret = tokens.secret_of(TOKEN, expires=NOW + timedelta(seconds=seconds), description="")
    info = tokens.described(stored(secret), NOW)
    assert info is not None
    assert info.usable == (seconds > 0)
    assert (tokens.in_words(info, NOW) == "expired") == (seconds <= 0)


def test_a_token_with_a_time_that_cannot_be_read_opens_nothing() -> None:
    """The API server refuses it too."""
    secret = stored(tokens.secret_of(TOKEN, expires=NOW, description=""))
    secret["data"]["expiration"] = b64encode(b"tomorrow").decode()
    info = tokens.described(secret, NOW)
    assert info is not None
    assert not info.usable
    assert tokens.in_words(info, NOW) == "expired"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(86400, "24h 0m"), (3599, "59m 59s"), (59, "59s"), (7260, "2h 1m")],
)
def test_the_rest_of_a_tokens_life_is_told_in_two_units(seconds: int, text: str) -> None:
    """None is shown that does not matter."""
    secret = tokens.secret_of(TOKEN, expires=NOW + timedelta(seconds=seconds), description="")
    info = tokens.described(stored(secret), NOW)
    assert info is not None
    assert tokens.in_words(info, NOW) == text


def test_other_secrets_are_no_tokens() -> None:
    """By type and by name."""
    secret = stored(tokens.secret_of(TOKEN, expires=None, description=""))
    assert tokens.described({**secret, "type": "Opaque"}, NOW) is None
    assert tokens.described({**secret, "metadata": {"name": "x"}}, NOW) is None
    assert tokens.described({}, NOW) is None


def test_a_damaged_secret_is_said_to_be() -> None:
    """No traceback for what somebody else wrote."""
    secret = stored(tokens.secret_of(TOKEN, expires=None, description=""))
    secret["data"]["description"] = "%"
    with pytest.raises(LabError, match="damaged"):
        tokens.described(secret, NOW)


def test_an_id_may_be_given_as_the_whole_token() -> None:
    """As it stands in the join line."""
    assert tokens.check_id("abcdef") == "abcdef"
    assert tokens.check_id(str(TOKEN)) == "abcdef"
    with pytest.raises(UsageError, match="'abc' is no id of a token"):
        tokens.check_id("abc")


def test_the_join_line_is_the_whole_command() -> None:
    """For another host's shell, as it stands."""
    line = tokens.join_line("10.0.0.1:6443", TOKEN, "sha256:00ff")
    assert line == (
        "barenode join 10.0.0.1:6443 --token abcdef.0123456789abcdef --ca-hash sha256:00ff"
    )
