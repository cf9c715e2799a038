"""Faults of a worker under a service's load: a container that is removed, a host that dies.

What holds for the service while a host is dead: a connection to a pod that died with its host
cannot be answered before its endpoint is gone, which is when the node is noticed to be dead. Until
then a request is answered after some attempts; once every host's rules have let go of the dead
pods, each first attempt is answered, unless it is made from a port from which one had been made
before in vain: the kernel remembers for two minutes where that one went.
"""

import calendar
import logging
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from tests.support.kubelab import KubeLab, is_ready
from tests.support.load import Load, figures, service_load, unplug
from tests.support.services import Json

log = logging.getLogger(__name__)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PODS = "/api/v1/namespaces/default/pods"
PAGES = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: pages}
spec:
  replicas: 4
  selector: {matchLabels: {app: pages}}
  template:
    metadata: {labels: {app: pages}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector: {matchLabels: {app: pages}}
      containers:
        - name: nginx
          image: barenode/nginx:lab
          ports: [{containerPort: 80}]
          readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1, timeoutSeconds: 10}
---
apiVersion: v1
kind: Service
metadata: {name: pages}
spec:
  selector: {app: pages}
  ports: [{port: 80}]
"""


@pytest.fixture(scope="module")
def pages(kube: KubeLab) -> Iterator[str]:
    """The address of a service of four pods, two on each worker."""
    kube.apply(PAGES)
    try:
        kube.ready_pods("app=pages", 4)
        yield f"http://{kube.json('get', 'service', 'pages')['spec']['clusterIP']}/"
    finally:
        kube.delete_all()


def on(pods: list[Json], host: str) -> list[Json]:
    """Those of *pods* that are bound to *host*."""
    return [pod for pod in pods if pod["spec"]["nodeName"] == host]


def containers(kube: KubeLab, host: str) -> dict[str, set[str]]:
    """The containers on *host*, living or not, by the UID of their pod."""
    form = '{{.Label "io.kubernetes.pod.uid"}} {{.Names}}'
    found: dict[str, set[str]] = {}
    for line in kube.docker(host, "ps", "--all", "--format", form).splitlines():
        # One that is being removed may have no name any more.
        uid, _, name = line.partition(" ")
        found.setdefault(uid, set()).add(name)
    return found


def subnet(kube: KubeLab, host: str) -> str:
    """FLANNEL_SUBNET of *host*."""
    lines = (kube.root(host) / "run/flannel/subnet.env").read_text().splitlines()
    return next(line for line in lines if line.startswith("FLANNEL_SUBNET="))


def test_an_application_container_that_is_removed_is_made_again(kube: KubeLab, pages: str) -> None:
    """``docker rm -f``: the pod, its address and its sandbox stay, the other pods are let be."""
    before = kube.ready_pods("app=pages", 4)
    victim = before[0]
    key = victim["status"]["containerStatuses"][0]["containerID"].removeprefix("docker://")
    kube.docker(victim["spec"]["nodeName"], "rm", "--force", key)

    def again() -> bool:
        (status,) = one(kube, victim)["status"]["containerStatuses"]
        return bool(status["ready"] and status["restartCount"] == 1)

    kube.wait(again, "another container runs")
    after = {pod["metadata"]["uid"]: pod for pod in kube.ready_pods("app=pages", 4)}
    assert after.keys() == {pod["metadata"]["uid"] for pod in before}
    assert [after[pod["metadata"]["uid"]]["status"]["podIP"] for pod in before] == [
        pod["status"]["podIP"] for pod in before
    ]
    assert sum(pod["status"]["containerStatuses"][0]["restartCount"] for pod in after.values()) == 1
    url = f"http://{victim['status']['podIP']}/"
    page = kube.wait(lambda: kube.curl(kube.workers[0], url), "it answers")
    assert page == "barenode\n"


def one(kube: KubeLab, pod: Json) -> Json:
    """*pod* as it is now."""
    status, found = kube.api("GET", f"{PODS}/{pod['metadata']['name']}")
    assert status == 200, found
    return dict(found)


@dataclass
class Death:
    """What was seen when the power of *host* failed at *moment*; times are Unix seconds.

    *noticed* is when the API said that the node is not ready, *released* when no host led to
    the dead pods any more, *moved* when as many pods were ready elsewhere.
    """

    host: str
    others: tuple[str, ...]
    before: list[Json]
    subnet: str
    load: Load
    moment: float = 0.0
    noticed: float = 0.0
    released: float = 0.0
    moved: float = 0.0
    returned: bool = False


def condition(kube: KubeLab, host: str) -> Json:
    """The condition Ready of the node *host*."""
    status, node = kube.api("GET", f"/api/v1/nodes/{host}")
    assert status == 200, node
    return next(c for c in node["status"]["conditions"] if c["type"] == "Ready")


def lets_go(kube: KubeLab, host: str, addresses: set[str]) -> bool:
    """Whether no rule of *host* names one of *addresses*."""
    rules = "".join(
        subprocess.run(
            kube.argv(host, f"iptables-{variant}-save", "--table=nat"),
            capture_output=True, text=True, check=True,
        ).stdout
        for variant in ("nft", "legacy")
    )  # fmt: skip
    return not any(f"{address}:80" in rules for address in addresses)


def elsewhere(kube: KubeLab, host: str) -> list[Json]:
    """The four pods that are ready on other hosts than *host*, none before all are."""
    pods = kube.items(PODS, "app=pages")
    found = [pod for pod in pods if pod["spec"].get("nodeName") != host and is_ready(pod)]
    return found if len(found) == 4 else []


@pytest.fixture(scope="module")
def death(kube: KubeLab, pages: str) -> Iterator[Death]:
    """The power of a worker has failed under load, and its pods run elsewhere."""
    host = kube.workers[-1]
    others = tuple(name for name in kube.hosts if name != host)
    before = kube.ready_pods("app=pages", 4)
    dead = {pod["status"]["podIP"] for pod in on(before, host)}
    assert len(dead) == 2, "the pods are spread over the workers"
    for other in others:
        # It may know the service's endpoints a little later than the pods are ready.
        kube.wait(partial(kube.curl, other, pages), f"{other} reaches the service")
    seen = Death(host, others, before, subnet(kube, host), service_load(kube, others, pages))
    try:
        with seen.load:
            kube.wait(lambda: seen.load.flowing(0), "the load flows")
            seen.moment = unplug(kube, host)
            kube.kill(host)
            _follow(kube, seen, dead)
        yield seen
    finally:
        if not seen.returned:
            kube.start(host)


def _follow(kube: KubeLab, seen: Death, dead: set[str]) -> None:
    """Note what happens, until the service goes on without the pods at the *dead* addresses."""
    kube.wait(lambda: condition(kube, seen.host)["status"] != "True", "it is not ready", 180)
    seen.noticed = time.time()
    for other in seen.others:
        kube.wait(partial(lets_go, kube, other, dead), f"{other} does not lead there")
    seen.released = time.time()
    kube.wait(lambda: elsewhere(kube, seen.host), "the pods run elsewhere", 180)
    seen.moved = time.time()
    kube.wait(lambda: seen.load.flowing(seen.moved), "the load goes on")


def test_a_dead_worker_is_not_ready_by_its_silence_alone(kube: KubeLab, death: Death) -> None:
    """The controller manager, which looks every 2 s, waits for 30 s after the last sign of life.

    When that was is told by the API, in whole seconds.
    """
    said = condition(kube, death.host)
    at = calendar.timegm(time.strptime(said["lastTransitionTime"], "%Y-%m-%dT%H:%M:%SZ"))
    log.info(
        "NotReady after %.0f s, seen after %.1f s; rules let go after %.1f s, moved after %.1f s",
        at - death.moment, death.noticed - death.moment,
        death.released - death.moment, death.moved - death.moment,
    )  # fmt: skip
    assert (said["status"], said["reason"]) == ("Unknown", "NodeStatusUnknown")


def test_every_request_is_answered_and_at_once_when_the_dead_pods_are_out(death: Death) -> None:
    """Half the pods are dead: until that is noticed one in two first attempts may fail."""
    dark = death.load.requests(since=death.moment, until=death.released)
    light = death.load.requests(since=death.released)
    log.info("until the dead pods are out: %s; then: %s", figures(dark), figures(light))
    assert [one for one in death.load.requests() if not one.answered] == []
    assert [one for one in death.load.requests(until=death.moment - 5) if one.failures] == []
    tried = {(one.client, port) for one in dark for port in one.ports}
    again = [one for one in light if {(one.client, port) for port in one.ports} & tried]
    log.info("then again from a port that had been tried: %s", again)
    assert [one for one in light if one.failures and one not in again] == []
    assert {one.client for one in light} == set(death.others)


def test_a_host_that_returns_is_clean_and_has_its_subnet(kube: KubeLab, death: Death) -> None:
    """No container of an old pod is left, running or not; each new one is of a pod of the API."""
    kube.start(death.host)
    death.returned = True
    kube.wait(lambda: is_ready(kube.json("get", "node", death.host)), "the node is ready")
    old = {pod["metadata"]["uid"] for pod in on(death.before, death.host)}

    def clean() -> bool:
        known = {pod["metadata"]["uid"] for pod in on(kube.items("/api/v1/pods"), death.host)}
        return containers(kube, death.host).keys() <= known - old

    kube.wait(clean, "the containers of the old pods are gone")
    assert subnet(kube, death.host) == death.subnet
    pods = kube.ready_pods("app=pages", 4)
    assert old.isdisjoint(pod["metadata"]["uid"] for pod in pods)
