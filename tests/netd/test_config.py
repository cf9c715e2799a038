"""netd's settings: flannel's flags and variables work, and mistakes name flag and remedy."""

import os
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from hostkit.config import ConfigError, Settings
from netd.config import (
    OPTIONS,
    Halves,
    etcd_config,
    halves_to_clean,
    halves_to_run,
    load_settings,
)

NO_FILE = {"NETD_CONFIG": "/dev/null"}


def read(*argv: str, **environ: str) -> Settings:
    """The settings, without this machine's file."""
    return load_settings(argv, NO_FILE | environ)


FLANNEL: list[tuple[str, str, object]] = [
    ("etcd-endpoints", "http://10.0.0.1:2379,http://10.0.0.2:2379",
     ("http://10.0.0.1:2379", "http://10.0.0.2:2379")),
    ("etcd-prefix", "/overlay", "/overlay"),
    ("etcd-cafile", "/ca.pem", "/ca.pem"),
    ("etcd-certfile", "/cert.pem", "/cert.pem"),
    ("etcd-keyfile", "/key.pem", "/key.pem"),
    ("etcd-username", "netd", "netd"),
    ("etcd-password", "s3cret", "s3cret"),
    ("iface", "eth1", ("eth1",)),
    ("iface-regex", "eth[12]", ("eth[12]",)),
    ("iface-can-reach", "10.0.0.9", "10.0.0.9"),
    ("public-ip", "10.0.0.5", IPv4Address("10.0.0.5")),
    ("subnet-file", "/tmp/subnet.env", "/tmp/subnet.env"),
    ("subnet-lease-renew-margin", "30", 30),
    ("ip-masq", "true", True),
    ("iptables-resync", "7", 7),
    ("iptables-forward-rules", "false", False),
    ("healthz-ip", "127.0.0.1", "127.0.0.1"),
    ("healthz-port", "8285", 8285),
    ("net-config-path", "/etc/net.json", "/etc/net.json"),
]  # fmt: skip
"""Every flag of the contract with a text and what it means."""


@pytest.mark.parametrize(("name", "given", "value"), FLANNEL)
def test_every_flag_of_flanneld_is_taken_with_one_dash_and_with_two(
    name: str, given: str, value: object
) -> None:
    for argv in ([f"-{name}={given}"], [f"--{name}={given}"]):
        assert read(*argv)[name] == value
    if name not in {"ip-masq", "iptables-forward-rules"}:
        assert read(f"-{name}", given)[name] == value


@pytest.mark.parametrize(("name", "given", "value"), FLANNEL)
def test_every_setting_is_taken_from_flanneld_s_variables_and_from_our_own_which_win(
    name: str, given: str, value: object
) -> None:
    variable = name.upper().replace("-", "_")
    assert read(**{f"FLANNELD_{variable}": given})[name] == value
    default = {option.name: option for option in OPTIONS}[name].default
    settings = read(**{f"NETD_{variable}": given, f"FLANNELD_{variable}": given})
    assert settings[name] == value != default
    assert settings.origins[name] == f"environment NETD_{variable}"


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("etcd-endpoints", ("http://127.0.0.1:4001", "http://127.0.0.1:2379")),
        ("etcd-prefix", "/coreos.com/network"),
        ("subnet-file", "/run/flannel/subnet.env"),
        ("subnet-lease-renew-margin", 60),
        ("ip-masq", False),
        ("iptables-resync", 5),
        ("iptables-forward-rules", True),
        ("healthz-ip", "0.0.0.0"),
        ("healthz-port", 0),
        ("iface", ()),
        ("public-ip", None),
        ("allow-renumber", False),
    ],
)
def test_defaults_are_flannel_s(name: str, default: object) -> None:
    assert read()[name] == default


@pytest.mark.parametrize(
    ("argv", "run", "clean"),
    [
        ("", Halves(True, False), Halves(True, True)),
        ("--master=a:1", Halves(True, True), Halves(True, True)),
        ("--api-servers=a:1 --overlay=off", Halves(False, True), Halves(False, True)),
        ("--kubeconfig=/k --services=off", Halves(True, False), Halves(True, False)),
        ("--master=a:1 --services=on --overlay=off", Halves(False, True), Halves(False, True)),
    ],
)
def test_services_run_where_an_api_server_is_named_and_are_cleaned_up_unless_off(
    argv: str, run: Halves, clean: Halves
) -> None:
    settings = read(*argv.split())
    assert (halves_to_run(settings), halves_to_clean(settings)) == (run, clean)


@pytest.mark.parametrize(
    "content",
    [
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\n",
        '{\n  "kind": "KubeProxyConfiguration"\n}\n',
    ],
)
@pytest.mark.parametrize("how", ["flag", "variable"])
def test_kube_proxy_s_file_is_refused_with_the_way_to_write_it(
    tmp_path: Path, content: str, how: str
) -> None:
    file = tmp_path / "config.conf"
    file.write_text(content)
    with pytest.raises(ConfigError, match="KubeProxyConfiguration") as caught:
        if how == "flag":
            read(f"--config={file}")
        else:
            read(NETD_CONFIG=str(file))
    assert str(caught.value).startswith(f"{file}: ")
    assert 'cluster-cidr = "10.1.0.0/16"' in str(caught.value)


def test_a_file_of_ours_may_speak_of_kube_proxy_s(tmp_path: Path) -> None:
    file = tmp_path / "netd.toml"
    file.write_text('# was kind: KubeProxyConfiguration\ncluster-cidr = "10.1.0.0/16"\n')
    assert read(f"--config={file}")["cluster-cidr"] == "10.1.0.0/16"


def test_settings_may_come_through_a_pipe_which_can_be_read_only_once() -> None:
    ours, theirs = os.pipe()
    os.write(theirs, b'etcd-prefix = "/overlay"\n')
    os.close(theirs)
    try:
        assert read(f"--config=/dev/fd/{ours}")["etcd-prefix"] == "/overlay"
    finally:
        os.close(ours)


def test_interfaces_may_be_given_repeatedly_and_in_one_word() -> None:
    assert read("--iface=eth1", "-iface", "eth2,eth3")["iface"] == ("eth1", "eth2", "eth3")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--etcd-endpoint=x"], ["unknown flag --etcd-endpoint", "--etcd-endpoints?"]),
        (["-ifcae=eth0"], ["unknown flag -ifcae", "-iface?"]),
        (["--public-ip=eth0"], ["flag --public-ip", "'eth0'", "IPv4 address that a host can have"]),
        (["--public-ip=fd00::1"], ["flag --public-ip", "IPv4 address"]),
        (["--public-ip=127.0.0.1"], ["flag --public-ip", "that a host can have"]),
        (["--public-ip=0.0.0.0"], ["flag --public-ip", "that a host can have"]),
        (["--public-ip=224.0.0.1"], ["flag --public-ip", "that a host can have"]),
        (["--public-ipv6=fd00::1"], ["public-ipv6", "IPv4 only"]),
        (["--kube-subnet-mgr", "run"], ["kube-subnet-mgr", "leases in etcd"]),
        (["--kube-subnet-mgr=true"], ["kube-subnet-mgr", "leases in etcd", "--etcd-endpoints"]),
        (["--iptables-resync=0"], ["iptables-resync", "1 to 3600"]),
        (["--subnet-lease-renew-margin=1440"], ["1 to 1439"]),
        (["--healthz-port=65536"], ["healthz-port", "0 to 65535"]),
        (["--iptables-variant=ebtables"], ["use auto or nft or legacy"]),
        (["--overlay=maybe"], ["flag --overlay", "use on or off"]),
        (["--services=true"], ["flag --services", "use on or off or auto"]),
    ],
)
def test_a_mistake_is_refused_in_words_that_help(argv: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(*argv)
    assert all(word in str(caught.value) for word in words), caught.value


def test_what_flannel_needs_spelled_out_as_off_is_taken() -> None:
    settings = read("--kube-subnet-mgr=false", "--public-ipv6=", "--public-ip=")
    assert settings["public-ip"] is None


def test_an_empty_variable_counts_as_unset_whatever_the_setting_is() -> None:
    """Units pass variables on that an operator left empty."""
    names = [option.name for option in OPTIONS if option.name != "config"]
    empty = {
        f"{prefix}_{name.upper().replace('-', '_')}": ""
        for prefix in ("FLANNELD", "NETD")
        for name in names
    }
    settings = read(**empty)
    assert {name: settings[name] for name in names} == {name: read()[name] for name in names}
    assert {settings.origins[name] for name in names} == {"default"}


@pytest.mark.parametrize("name", ["version", "help", "print-config", "json"])
def test_what_asks_for_an_answer_is_a_flag_only_and_no_variable_or_setting(
    name: str, tmp_path: Path
) -> None:
    """NETD_VERSION=1.2 may be an operator's own note."""
    assert read(**{f"NETD_{name.upper().replace('-', '_')}": "1.2"})[name] is False
    file = tmp_path / "netd.toml"
    file.write_text(f"{name} = true\n")
    with pytest.raises(ConfigError, match=f"unknown setting {name}"):
        read(f"--config={file}")
    assert read(f"--{name}")[name] is True


def test_every_visible_option_has_help_and_a_default_that_it_would_accept_itself() -> None:
    for option in OPTIONS:
        assert option.help
        if option.default not in ((), None):
            text = ",".join(option.default) if isinstance(option.default, tuple) else (
                str(option.default).lower() if isinstance(option.default, bool)
                else str(option.default)
            )  # fmt: skip
            assert option.parse(text) == option.default, option.name


def test_the_etcd_part_is_made_of_the_flags(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text("x")
    config = etcd_config(
        read(
            "--etcd-endpoints=https://10.0.0.1:2379/,https://10.0.0.2:2379",
            f"--etcd-cafile={tmp_path / 'ca'}", f"--etcd-certfile={tmp_path / 'cert'}",
            f"--etcd-keyfile={tmp_path / 'key'}",
            "--etcd-username=netd", "--etcd-password=s3cret",
        )
    )  # fmt: skip
    assert config.endpoints == ("https://10.0.0.1:2379", "https://10.0.0.2:2379")
    assert config.certfile == str(tmp_path / "cert")
    assert (config.username, config.password) == ("netd", "s3cret")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--etcd-endpoints="], ["etcd-endpoints", "at least one"]),
        (["--etcd-endpoints=10.0.0.1:2379"], ["etcd-endpoints", "https://10.0.0.1:2379"]),
        (["--etcd-certfile=/dev/null"], ["etcd-keyfile", "together"]),
        (["--etcd-cafile=/nowhere/ca"], ["etcd-cafile", "/nowhere/ca", "No such file"]),
        (["--etcd-username=x"], ["etcd-password", "together"]),
    ],
)
def test_a_bad_etcd_setting_is_refused_under_its_flag_s_name(
    argv: list[str], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        etcd_config(read(*argv))
    assert all(word in str(caught.value) for word in words), caught.value
