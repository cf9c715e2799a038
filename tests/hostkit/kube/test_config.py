"""What the settings and a kubeconfig say, and what is refused, by field and with a remedy."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hostkit.kube.config import KubeConfig, load
from hostkit.kube.errors import KubeConfigError


def kubeconfig(
    path: Path,
    cluster: dict[str, Any] | None = None,
    user: dict[str, Any] | None = None,
    current: str = "here",
    **top: Any,
) -> str:
    """Write a kubeconfig with one context."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": current,
        "clusters": [{"name": "c", "cluster": cluster or {"server": "https://10.0.0.1:6443"}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        **top,
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_servers_alone_are_enough_and_a_bare_host_and_port_means_http() -> None:
    config = load(["10.0.0.1:8080", " http://10.0.0.2:8080/ ", ""], "")
    assert config.servers == ("http://10.0.0.1:8080", "http://10.0.0.2:8080")
    assert not config.tls


def test_a_kubeconfig_gives_server_and_credentials_with_files_beside_it(tmp_path: Path) -> None:
    for name in ("ca.pem", "client.pem", "client.key"):
        (tmp_path / name).write_text("x")
    path = kubeconfig(
        tmp_path / "config",
        {
            "server": "https://10.0.0.1:6443/base/",
            "certificate-authority": "ca.pem",
            "tls-server-name": "kubernetes",
        },
        {"client-certificate": "client.pem", "client-key": str(tmp_path / "client.key")},
    )
    config = load([], path)
    assert config == KubeConfig(
        ("https://10.0.0.1:6443/base",),
        ca_file=str(tmp_path / "ca.pem"),
        cert_file=str(tmp_path / "client.pem"),
        key_file=str(tmp_path / "client.key"),
        tls_server_name="kubernetes",
    )


def test_a_kubeconfig_in_json_with_inline_data_is_read_too(tmp_path: Path) -> None:
    encoded = base64.b64encode(b"PEM").decode()
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps(
            {
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [
                    {
                        "name": "c",
                        "cluster": {"server": "https://a", "certificate-authority-data": encoded},
                    }
                ],
                "users": [{"name": "u", "user": {"token": "secret"}}],
            }
        )
    )
    config = load([], str(path))
    assert (config.ca_data, config.token) == ("PEM", "secret")
    assert "secret" not in repr(config)


def test_given_servers_win_over_the_kubeconfigs_and_keep_its_credentials(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", user={"token": "t"})
    config = load(["https://a:1", "https://b:2"], path)
    assert config.servers == ("https://a:1", "https://b:2")
    assert config.token == "t"  # noqa: S105


def test_the_current_context_is_the_one_that_counts(tmp_path: Path) -> None:
    path = kubeconfig(
        tmp_path / "config",
        clusters=[
            {"name": "a", "cluster": {"server": "https://a"}},
            {"name": "b", "cluster": {"server": "https://b"}},
        ],
        contexts=[
            {"name": "one", "context": {"cluster": "a", "user": "u"}},
            {"name": "two", "context": {"cluster": "b", "user": "u"}},
        ],
        current="two",
    )
    assert load([], path).servers == ("https://b",)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({"token": "mine"}, ("mine", "", "")),
        ({}, ("", "token", "")),
    ],
)
def test_credentials_of_the_kubeconfig_come_before_a_token_file_and_that_before_a_certificate(
    tmp_path: Path, user: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    for name in ("token", "cert", "key"):
        (tmp_path / name).write_text("x")
    config = load(
        [],
        kubeconfig(tmp_path / "config", user=user),
        token_file=str(tmp_path / "token"),
        cert_file=str(tmp_path / "cert"),
        key_file=str(tmp_path / "key"),
    )
    assert (config.token, Path(config.token_file).name, config.cert_file) == expected


def test_a_client_certificate_is_used_when_there_is_nothing_else(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text("x")
    config = load(
        ["https://a"],
        "",
        ca_file=str(tmp_path / "ca"),
        cert_file=str(tmp_path / "cert"),
        key_file=str(tmp_path / "key"),
    )
    assert Path(config.cert_file).name == "cert"
    assert Path(config.ca_file).name == "ca"


@pytest.mark.parametrize(
    ("user", "cluster", "sentence"),
    [
        ({"exec": {"command": "aws"}}, {}, "users, 'u': exec: credential plugins are not run"),
        ({"auth-provider": {"name": "gcp"}}, {}, "users, 'u': auth-provider: is not supported"),
        ({"username": "a", "password": "b"}, {}, "users, 'u': username: passwords are not"),
        ({"as": "admin"}, {}, "users, 'u': as: acting as another user is not supported"),
        ({}, {"proxy-url": "http://p"}, "clusters, 'c': proxy-url: proxies are not supported"),
        ({"client-key-data": "%%"}, {}, "client-key-data is not the base64"),
        ({"token": 12}, {}, "is no kubeconfig: Expected `str`, got `int`"),
        ({}, {"server": ""}, "names no server; set server or --api-servers"),
    ],
)
def test_what_a_kubeconfig_asks_in_vain_is_refused_by_name(
    tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any], sentence: str
) -> None:
    path = kubeconfig(tmp_path / "config", {"server": "https://a", **cluster}, user)
    with pytest.raises(KubeConfigError) as caught:
        load([], path)
    assert caught.value.field == "kubeconfig"
    assert str(caught.value).startswith(f"kubeconfig: {path}: ")
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a: [", "is neither YAML nor JSON"),
        (b"\xff\xfe\x00", "is neither YAML nor JSON"),
        (b"- 1", "is no kubeconfig"),
        (b"", "current-context is not set"),
        (b"current-context: x", "contexts has no entry named 'x'"),
    ],
)
def test_a_file_that_is_no_kubeconfig_is_told_as_such(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    path = tmp_path / "config"
    path.write_bytes(content)
    with pytest.raises(KubeConfigError, match=sentence):
        load([], str(path))


def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(KubeConfigError, match=r"nope: cannot be read: No such file"):
        load(["http://a"], str(tmp_path / "nope"))


@pytest.mark.parametrize(
    ("servers", "sentence"),
    [
        ([], "api-servers: no API server: give --api-servers or --kubeconfig"),
        (["ftp://a"], "servers: 'ftp://a' must look like https://10.0.0.1:6443"),
        (["http://a:0"], "has no usable port"),
        (["http://a:99999"], "is not a URL: Port out of range"),
        (["http://u@a"], "cannot carry a user name"),
        (["http://a/?x=1"], "must end after the path"),
        (["http://a", "https://b"], "http and https URLs cannot be mixed"),
    ],
)
def test_servers_that_cannot_be_used_are_refused(servers: list[str], sentence: str) -> None:
    with pytest.raises(KubeConfigError) as caught:
        load(servers, "")
    assert sentence in str(caught.value)


def test_half_a_pair_an_unreadable_file_and_a_useless_ca_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KubeConfigError, match="key_file: a client certificate and its key"):
        KubeConfig(("https://a",), cert_data="x")
    with pytest.raises(KubeConfigError, match=r"token_file: cannot read .*none: No such file"):
        KubeConfig(("https://a",), token_file=str(tmp_path / "none"))
    with pytest.raises(KubeConfigError, match="insecure: cannot be set together with a CA"):
        KubeConfig(("https://a",), ca_data="x", insecure=True)
