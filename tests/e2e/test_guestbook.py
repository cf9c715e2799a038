"""The guestbook of docs/examples: redis with two replicas, three web programs, a port everywhere.

Services are found by the variables that containers get; what is written through one web program
is read through another.
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.kubelab import KubeLab
from tests.support.services import Json

pytestmark = pytest.mark.e2e

EXAMPLE = Path("docs/examples/guestbook/guestbook.yaml")
NODE_PORT = 30061


class Guestbook:
    """What runs, as its users see it. *frontends*, *masters* and *slaves* are pods."""

    def __init__(self, kube: KubeLab) -> None:
        self.kube = kube
        self.masters = kube.ready_pods("app=redis,role=master", 1)
        self.slaves = kube.ready_pods("app=redis,role=slave", 2)
        self.frontends = kube.ready_pods("app=guestbook", 3)

    def ask(self, base: str, host: str, **query: str) -> tuple[str, Json]:
        """Which pod answered to *host* at *base*, and what."""
        words = "&".join(f"{name}={quote(value)}" for name, value in query.items())
        argv = ("curl", "--silent", "--show-error", "--include", "--max-time", "30")
        answer = self.kube.exec(host, *argv, f"{base}/?{words}", check=False)
        head, _, body = answer.partition("\n\n")
        served = re.search(r"^X-Served-By: (\S+)", head, re.MULTILINE)
        assert served, f"{base} answers {answer!r}"
        found: Json = json.loads(body)
        return served[1], found

    def write(self, base: str, host: str, key: str, value: str) -> None:
        """Write; a host may know a service's endpoints a little later than the pods are ready."""

        def done() -> bool:
            _, answer = self.ask(base, host, cmd="set", key=key, value=value)
            return answer == {"message": "Updated"}

        self.kube.wait(done, f"{base} takes {key}={value}", 60)

    def says(self, base: str, host: str, key: str, value: str) -> str:
        """The pod that served *value*, once it does: slaves follow the master with some delay."""

        def look() -> str:
            pod, found = self.ask(base, host, cmd="get", key=key)
            return pod if found == {"data": value} else ""

        return self.kube.wait(look, f"{base} says {key}={value}", 60)

    def redis(self, pod: Json, *words: str) -> str:
        """What redis-cli says inside the container of *pod*."""
        (status,) = pod["status"]["containerStatuses"]
        key = status["containerID"].removeprefix("docker://")
        return self.kube.docker(pod["spec"]["nodeName"], "exec", key, "redis-cli", *words)


@pytest.fixture(scope="module")
def guestbook(kube: KubeLab) -> Iterator[Guestbook]:
    """The guestbook, all of whose pods are ready."""
    kube.apply(EXAMPLE)
    try:
        yield Guestbook(kube)
    finally:
        kube.delete_all()


def url(pod: Json) -> str:
    """The address of a web program."""
    return f"http://{pod['status']['podIP']}"


def test_what_is_written_through_one_frontend_is_read_through_the_others(
    guestbook: Guestbook,
) -> None:
    """Whichever host they are on, and whatever the characters."""
    text = 'Grüße, "friend" \\ 50 % & <more>'
    host = guestbook.kube.workers[0]
    first, *others = guestbook.frontends

    def wrote() -> str:
        # Its host may know the master's endpoint a little later than the pods are ready.
        pod, answer = guestbook.ask(url(first), host, cmd="set", key="messages", value=text)
        return pod if answer == {"message": "Updated"} else ""

    assert guestbook.kube.wait(wrote, f"{url(first)} takes it") == first["metadata"]["name"]
    for pod in others:
        assert guestbook.says(url(pod), host, "messages", text) == pod["metadata"]["name"]


def test_the_node_port_answers_at_every_host_to_clients_from_outside(guestbook: Guestbook) -> None:
    """The client is on no host of the cluster; hosts without a frontend answer, too."""
    for host in guestbook.kube.hosts:
        base = f"http://{guestbook.kube.address(host)}:{NODE_PORT}"
        guestbook.write(base, "fabric", host, f"signed at {host}")
        guestbook.says(base, "fabric", host, f"signed at {host}")
        page = guestbook.kube.wait(partial(guestbook.kube.curl, "fabric", base), f"{base} answers")
        assert "<h1>Guestbook</h1>" in page


def test_every_slave_follows_the_master(guestbook: Guestbook) -> None:
    """What the master has, each slave has; and a slave takes no writes."""
    (master,) = guestbook.masters
    guestbook.redis(master, "set", "replicated", "yes")
    guestbook.kube.wait(
        lambda: all(guestbook.redis(one, "get", "replicated") == "yes" for one in guestbook.slaves),
        "the slaves have what was written at the master",
    )
    for slave in guestbook.slaves:
        assert guestbook.redis(slave, "set", "replicated", "no").startswith("READONLY")
    assert "connected_slaves:2" in guestbook.redis(master, "info", "replication")


def test_a_pod_that_is_started_later_finds_the_services_in_its_environment(
    guestbook: Guestbook,
) -> None:
    """By the names of the documents: HOST and PORT, and the older form of links."""
    kube = guestbook.kube
    script = "env; echo all said; exec sleep 1000"
    container = {"name": "c", "image": "barenode/busybox:lab", "command": ["sh", "-c", script]}
    metadata = {"name": "later", "labels": {"app": "later"}}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    kube.apply(json.dumps(pod))
    kube.ready_pods("app=later", 1)

    def said() -> str:
        text = kube.kubectl("logs", "later")
        return text if text.endswith("all said\n") else ""

    lines = kube.wait(said, "the pod has said what it has")
    found = dict(line.split("=", 1) for line in lines.splitlines() if "=" in line)
    address = kube.json("get", "service", "redis-master")["spec"]["clusterIP"]
    expected = {
        "REDIS_MASTER_SERVICE_HOST": address,
        "REDIS_MASTER_SERVICE_PORT": "6379",
        "REDIS_MASTER_PORT": f"tcp://{address}:6379",
        "REDIS_MASTER_PORT_6379_TCP": f"tcp://{address}:6379",
        "REDIS_MASTER_PORT_6379_TCP_PROTO": "tcp",
        "REDIS_MASTER_PORT_6379_TCP_PORT": "6379",
        "REDIS_MASTER_PORT_6379_TCP_ADDR": address,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert {"REDIS_SLAVE_SERVICE_HOST", "FRONTEND_SERVICE_HOST"} <= found.keys()
