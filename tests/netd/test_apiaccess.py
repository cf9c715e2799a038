"""From flags to the API servers and credentials; a mistake is blamed on its flag."""

from pathlib import Path

import pytest

from hostkit.config import ConfigError, Settings
from netd.apiaccess import kube_config
from netd.config import load_settings

KUBECONFIG = """
clusters: [{name: c, cluster: {server: "https://10.0.0.1:6443"}}]
users: [{name: u, user: {token: abc}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


def read(*argv: str) -> Settings:
    """The settings, without this machine's file."""
    return load_settings(argv, {"NETD_CONFIG": "/dev/null"})


def test_servers_come_from_both_flags_and_plain_ones_speak_http() -> None:
    config = kube_config(read("--master=10.0.0.1:8080", "--api-servers=http://10.0.0.2:8080"))
    assert config.servers == ("http://10.0.0.1:8080", "http://10.0.0.2:8080")


def test_credentials_come_from_the_files_that_flags_name(tmp_path: Path) -> None:
    for name in ("ca", "token", "cert", "key"):
        (tmp_path / name).write_text("x")
    flags = ["--master=https://10.0.0.1:6443", f"--kube-cafile={tmp_path / 'ca'}"]
    by_token = kube_config(read(*flags, f"--kube-token-file={tmp_path / 'token'}"))
    assert (by_token.ca_file, by_token.token_file) == (
        str(tmp_path / "ca"), str(tmp_path / "token"),
    )  # fmt: skip
    pair = (f"--kube-certfile={tmp_path / 'cert'}", f"--kube-keyfile={tmp_path / 'key'}")
    by_cert = kube_config(read(*flags, *pair))
    assert (by_cert.cert_file, by_cert.key_file) == (str(tmp_path / "cert"), str(tmp_path / "key"))


def test_the_master_flag_wins_over_the_server_of_the_kubeconfig(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(KUBECONFIG)
    assert kube_config(read(f"--kubeconfig={file}")).servers == ("https://10.0.0.1:6443",)
    both = kube_config(read(f"--kubeconfig={file}", "--master=https://10.0.0.9:6443"))
    assert (both.servers, both.token) == (("https://10.0.0.9:6443",), "abc")


@pytest.mark.parametrize(
    ("argv", "start", "word"),
    [
        (["--master=ftp://a"], "flag --master: master: ", "must look like"),
        (["--api-servers=http://a,https://b"], "flag --api-servers: api-servers: ", "mixed"),
        (["--kubeconfig=/nowhere"], "flag --kubeconfig: kubeconfig: ", "cannot be read"),
        (["--master=https://a", "--kube-cafile=/nowhere"], "flag --kube-cafile: ", "/nowhere"),
        (["--master=https://a", "--kube-certfile=/dev/null"], "kube-keyfile: ", "together"),
        (["--master=https://a", "--kube-token-file=/nowhere"], "flag --kube-token-file: ", "read"),
    ],
)
def test_a_mistake_is_blamed_on_its_flag(argv: list[str], start: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kube_config(read(*argv))
    assert str(caught.value).startswith(start)
    assert word in str(caught.value)


def test_a_file_that_the_kubeconfig_names_is_blamed_on_the_kubeconfig(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(KUBECONFIG.replace("token: abc", "tokenFile: nowhere"))
    with pytest.raises(ConfigError, match=r"flag --kubeconfig: .*nowhere"):
        kube_config(read(f"--kubeconfig={file}"))
