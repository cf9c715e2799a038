"""A configuration is refused with the field that is wrong."""

from pathlib import Path
from typing import Any

import pytest

from hostkit.etcd.config import EtcdConfig
from hostkit.etcd.errors import EtcdConfigError, EtcdError
from hostkit.etcd.gateway import EtcdClient

USER: dict[str, Any] = {"username": "u", "password": "s3cret"}
ONE = ("http://127.0.0.1:2379",)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("endpoints", {"endpoints": ()}),
        ("endpoints", {"endpoints": ("127.0.0.1:2379",)}),
        ("endpoints", {"endpoints": ("ftp://127.0.0.1",)}),
        ("endpoints", {"endpoints": ("http://127.0.0.1:99999",)}),
        ("endpoints", {"endpoints": ("http://127.0.0.1:0",)}),
        ("endpoints", {"endpoints": ("http://127.0.0.1:2379/v2",)}),
        ("endpoints", {"endpoints": ("http://127.0.0.1:2379", "https://127.0.0.1:2379")}),
        ("certfile", {"keyfile": "/dev/null"}),
        ("keyfile", {"certfile": "/dev/null"}),
        ("cafile", {"cafile": "/nowhere/ca.pem"}),
        ("password", {"username": "u"}),
        ("username", {"password": "p"}),
        ("call_timeout", {"call_timeout": 0.0}),
        ("total_timeout", {"total_timeout": -1.0}),
    ],
)
def test_a_wrong_field_is_named(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(EtcdConfigError, match=f"^{field}: ") as caught:
        EtcdConfig(**{"endpoints": ONE, **values})
    assert caught.value.field == field
    assert isinstance(caught.value, EtcdError)


def test_a_password_is_in_no_text_made_of_a_configuration() -> None:
    assert "s3cret" not in repr(EtcdConfig(ONE, **USER))
    with pytest.raises(EtcdConfigError) as caught:
        EtcdConfig(("http://u:s3cret@127.0.0.1:2379",))
    assert "s3cret" not in str(caught.value)


def test_a_trailing_slash_and_a_repeated_endpoint_are_dropped() -> None:
    config = EtcdConfig(("http://127.0.0.1:2379/", "http://127.0.0.1:2379"))
    assert config.endpoints == ONE


async def test_a_file_without_certificates_is_refused_when_the_client_is_made(
    tmp_path: Path,
) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate\n")
    cases: list[dict[str, Any]] = [
        {"cafile": str(junk)},
        {"certfile": str(junk), "keyfile": str(junk)},
    ]
    for values in cases:
        with pytest.raises(EtcdConfigError) as caught:
            EtcdClient(EtcdConfig(("https://127.0.0.1:2379",), **values))
        assert caught.value.field == next(iter(values))
