"""netd at an etcd that wants certificates, or a user and a password, by flags and environment."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.certs import Authority
from tests.support.etcd import EtcdCluster, ServerTls
from tests.support.netd import CONFIG, PREFIX, NetdHost
from tests.support.netns import Fabric

ETCD = "172.29.0.251"
PASSWORD = "a word of some length"  # noqa: S105 - for an etcd that lives as long as the test


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The CA of server and clients."""
    return Authority(tmp_path / "ca")


@pytest.fixture
def cluster(fabric: Fabric, tmp_path: Path, authority: Authority) -> Iterator[EtcdCluster]:
    """One member on the fabric with TLS that wants client certificates, configured for netd."""
    fabric.bridge.run(f"ip addr add {ETCD}/24 dev br0")
    # With a common name the gateway takes the certificate for a user's, and refuses.
    tls = ServerTls(
        authority.cert,
        authority.issue("server", cn="etcd", sans=f"IP:{ETCD}"),
        authority.issue("operator", cn=""),
    )
    with EtcdCluster(
        tmp_path / "etcd", 1, addresses=[ETCD], namespaces=[fabric.bridge.name], tls=tls
    ) as made:
        made.ctl("put", f"{PREFIX}/config", json.dumps(CONFIG))
        yield made


@pytest.fixture
def host(fabric: Fabric, tmp_path: Path, cluster: EtcdCluster) -> NetdHost:
    """A host on the fabric, netd not started."""
    space = fabric.host("h1", "172.29.0.1/24")
    return NetdHost(space, tmp_path / "h1", cluster.endpoints, fabric)


def flags(authority: Authority) -> list[str]:
    """netd's TLS flags with a certificate of its own."""
    pair = authority.issue("netd", cn="")
    return [
        f"--etcd-cafile={authority.cert}",
        f"--etcd-certfile={pair.cert}",
        f"--etcd-keyfile={pair.key}",
    ]


def test_a_client_certificate_and_a_user_open_etcd(
    host: NetdHost, cluster: EtcdCluster, authority: Authority
) -> None:
    """TLS both ways, then authentication on top; the password is shown nowhere."""
    secure = flags(authority)
    host.up(*secure)
    subnet = host.subnet
    assert subnet.replace("/", "-") in cluster.ctl("get", "--keys-only", "--prefix", PREFIX)
    host.stop()
    cluster.enable_auth(PASSWORD)
    host.start(*secure, "--etcd-username=root", f"--etcd-password={PASSWORD}")
    host.wait(lambda status: status["lease"] and status["lease"]["state"] == "held", "the lease")
    assert host.subnet == subnet
    assert PASSWORD not in host.log
    assert PASSWORD not in host.view("/status")
    shown = host.command("run", f"--etcd-password={PASSWORD}", "--print-config").stdout
    assert "(hidden)" in shown
    assert PASSWORD not in shown


def told(status: dict[str, Any]) -> str:
    """The texts of all problems."""
    return " ".join(problem["text"] for problem in status["problems"])


def test_a_missing_certificate_and_a_wrong_password_get_a_sentence(
    host: NetdHost, cluster: EtcdCluster, authority: Authority
) -> None:
    """The problem names what is wrong; netd stays alive and goes on when it is put right."""
    host.start(f"--etcd-cafile={authority.cert}")
    host.wait(lambda status: "certificate" in told(status), "the problem")
    assert "Traceback" not in host.log
    host.stop()
    cluster.enable_auth(PASSWORD)
    host.start(*flags(authority), "--etcd-username=root", "--etcd-password=wrong")
    host.wait(lambda status: "password" in told(status), "the problem")
    assert host.view("/healthz") == "ok\n"
