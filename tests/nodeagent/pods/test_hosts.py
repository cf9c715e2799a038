"""A pod's /etc/hosts."""

from pathlib import Path
from typing import Any

import pytest

from nodeagent.pods.host import Host
from nodeagent.pods.hosts import domain_of, hostname_of, hosts_text
from nodeagent.pods.model import Pod, decode

HOST = Host("n1", "192.0.2.1", "machine", Path("/x"))


def pod(name: str = "web", **spec: Any) -> Pod:
    return decode({"metadata": {"name": name, "namespace": "shop", "uid": "u"}, "spec": spec})


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


def test_a_pod_knows_localhost_and_itself() -> None:
    found = lines(hosts_text(pod(), HOST, "10.1.2.3"))
    assert ["127.0.0.1", "localhost"] in found
    assert found[-1] == ["10.1.2.3", "web"]


def test_a_subdomain_gives_the_full_name_first() -> None:
    text = hosts_text(pod(hostname="db-0", subdomain="db"), HOST, "10.1.2.3")
    assert lines(text)[-1] == ["10.1.2.3", "db-0.db.shop.svc.cluster.local", "db-0"]


def test_without_an_address_there_is_no_line_of_the_pod() -> None:
    assert all(
        line[0] != "web" and "web" not in line for line in lines(hosts_text(pod(), HOST, ""))
    )


def test_aliases_come_last() -> None:
    alias = [{"ip": "192.0.2.7", "hostnames": ["a", "b.example"]}]
    assert lines(hosts_text(pod(hostAliases=alias), HOST, "10.1.2.3"))[-1] == [
        "192.0.2.7", "a", "b.example",
    ]  # fmt: skip


def test_a_pod_in_the_hosts_network_has_the_hosts_file_and_its_aliases() -> None:
    alias = [{"ip": "192.0.2.7", "hostnames": ["a"]}]
    text = hosts_text(pod(hostNetwork=True, hostAliases=alias), HOST, "", "127.0.0.1 localhost x")
    assert lines(text) == [["127.0.0.1", "localhost", "x"], ["192.0.2.7", "a"]]


@pytest.mark.parametrize(
    ("name", "wanted"), [("web", "web"), ("a" * 80, "a" * 63), ("a" * 62 + "-.b", "a" * 62)]
)
def test_a_hostname_is_a_label(name: str, wanted: str) -> None:
    assert hostname_of(pod(name), HOST) == wanted


def test_the_hosts_network_has_the_hosts_name_and_no_domain() -> None:
    assert hostname_of(pod(hostNetwork=True, hostname="x"), HOST) == "machine"
    assert domain_of(pod(hostNetwork=True, subdomain="x"), HOST) == ""
