"""The files for others: flannel's subnet.env, Docker's options, and the systemd drop-in."""

from ipaddress import IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd.bridge.options import (
    Facts,
    docker_env,
    drop_in,
    is_enough,
    parse_subnet_env,
    subnet_env,
)

FACTS = Facts(IPv4Network("10.1.0.0/16"), IPv4Network("10.1.33.0/24"), 1450, True)
ENV = "/run/docker_opts.env"


def test_subnet_env_is_flannel_s_file_byte_for_byte() -> None:
    assert subnet_env(FACTS) == (
        "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.33.1/24\n"
        "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    )


def test_subnet_env_tells_when_masquerading_is_off() -> None:
    facts = Facts(FACTS.network, FACTS.subnet, 1500, False)
    assert subnet_env(facts).endswith("FLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n")


@settings(deadline=None)
@given(st.integers(0, 2**24 - 1), st.integers(8, 30))
def test_the_subnet_is_read_back_from_what_was_written(number: int, length: int) -> None:
    size = 1 << (32 - length)
    subnet = IPv4Network(((10 << 24) + number // size * size, length))
    assert parse_subnet_env(subnet_env(Facts(FACTS.network, subnet, 1450, True))) == subnet


@pytest.mark.parametrize(
    ("text", "subnet"),
    [
        ("FLANNEL_SUBNET=10.1.33.1/24", "10.1.33.0/24"),
        ("# x\r\nFLANNEL_SUBNET=10.1.33.1/24\r\nFLANNEL_MTU=1\r\n", "10.1.33.0/24"),
        ("FLANNEL_NETWORK=10.1.0.0/16\n", None),
        ("XFLANNEL_SUBNET=10.1.33.1/24\n", None),
        ("FLANNEL_SUBNET=\n", None),
        ("FLANNEL_SUBNET=10.1.33.1\n", None),
        ("FLANNEL_SUBNET=10.1.33.1/33\n", None),
        ("FLANNEL_SUBNET=10.1.333.1/24\n", None),
        ("", None),
        ("\0\0\0", None),
    ],
)
def test_a_file_by_others_is_read_and_a_damaged_one_names_no_subnet(
    text: str, subnet: str | None
) -> None:
    assert parse_subnet_env(text) == (IPv4Network(subnet) if subnet else None)


def test_docker_gets_bridge_address_and_mtu_and_does_not_masquerade_beside_us() -> None:
    assert docker_env(FACTS) == (
        'DOCKER_OPT_BIP="--bip=10.1.33.1/24"\n'
        'DOCKER_OPT_IPMASQ="--ip-masq=false"\n'
        'DOCKER_OPT_MTU="--mtu=1450"\n'
        'DOCKER_OPTS=" --bip=10.1.33.1/24 --ip-masq=false --mtu=1450"\n'
    )


def test_docker_masquerades_by_itself_while_we_do_not() -> None:
    text = docker_env(Facts(FACTS.network, FACTS.subnet, 1450, False))
    assert "--ip-masq=true" in text
    assert "--ip-masq=false" not in text


@pytest.mark.parametrize(
    "unit",
    [
        "",
        "[Service]\nType=notify\n",
        "[Service]\nExecStart=/usr/sbin/dockerd -H fd:// $DOCKER_OPTS\n",
        "[Service]\nExecStart=/usr/sbin/dockerd ${DOCKER_OPTS} -H fd://\n",
        "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd $DOCKER_OPTS\n",
        "[Service]\nExecStart=/usr/sbin/dockerd \\\n  -H fd:// \\\n  $DOCKER_OPTS\nRestart=x\n",
    ],
)
def test_a_unit_that_passes_the_options_or_is_not_known_only_gets_the_file(unit: str) -> None:
    assert drop_in(ENV, unit) == (f"# Written by netd.\n[Service]\nEnvironmentFile=-{ENV}\n")


@pytest.mark.parametrize(
    ("unit", "command"),
    [
        (
            "[Service]\nExecStart=/usr/bin/dockerd -H fd://\nExecReload=/bin/kill $MAINPID\n",
            "/usr/bin/dockerd -H fd:// $DOCKER_OPTS",
        ),
        (
            "[Service]\nExecStart=/usr/bin/dockerd \\\n  -H fd://\nRestart=always\n",
            "/usr/bin/dockerd \\\n  -H fd:// $DOCKER_OPTS",
        ),
        ("[Service]\nExecStart=/usr/bin/dockerd", "/usr/bin/dockerd $DOCKER_OPTS"),
        (
            "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd\n",
            "/usr/bin/dockerd $DOCKER_OPTS",
        ),
        (
            "[Service]\nExecStart=/usr/bin/dockerd --old\nExecStart=\nExecStart=/bin/dockerd\n",
            "/bin/dockerd $DOCKER_OPTS",
        ),
        (
            "[Service]\nExecStart=/usr/bin/dockerd $DOCKER_OPTS_MORE\n",
            "/usr/bin/dockerd $DOCKER_OPTS_MORE $DOCKER_OPTS",
        ),
    ],
)
def test_another_unit_s_command_is_repeated_with_the_options(unit: str, command: str) -> None:
    assert drop_in(ENV, unit) == (
        f"# Written by netd.\n[Service]\nEnvironmentFile=-{ENV}\nExecStart=\nExecStart={command}\n"
    )


STATIC = "# As packaged.\n[Service]\nEnvironmentFile=-/run/docker_opts.env\n"
DEBIAN = "[Service]\nExecStart=/usr/sbin/dockerd -H fd:// $DOCKER_OPTS\n"
DOCKER_CE = "[Service]\nExecStart=/usr/bin/dockerd -H fd://\n"


@pytest.mark.parametrize(
    ("static", "unit", "enough"),
    [
        (STATIC, DEBIAN, True),
        (STATIC, "", True),
        (STATIC, DOCKER_CE, False),
        (STATIC.replace("=-", "="), DEBIAN, True),
        ("", DEBIAN, False),
        ("", "", False),
        ("[Service]\nEnvironmentFile=-/run/flannel/docker\n", DEBIAN, False),
        ("[Service]\n# EnvironmentFile=-/run/docker_opts.env\n", DEBIAN, False),
        (STATIC + "ExecStart=\nExecStart=/usr/bin/dockerd $DOCKER_OPTS\n", DOCKER_CE, True),
        (STATIC + "ExecStart=\nExecStart=/usr/bin/dockerd\n", DEBIAN, False),
    ],
)
def test_a_drop_in_by_others_is_enough_where_file_and_command_line_fit(
    static: str, unit: str, enough: bool
) -> None:
    assert is_enough(static, ENV, unit) is enough
