"""The loss of one master out of three, that which all agents use, under load.

One outage is made and watched; each test says one thing that held. Its measure of time is when
the master's cable was pulled: from then on nobody gets as much as a good-bye from it.
"""

import asyncio
import json
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from hostkit import unixhttp
from lab.probe import NETD_SOCKET, NODEAGENT_SOCKET
from tests.support.kubelab import KubeLab, is_ready
from tests.support.load import (
    ApiServer,
    Load,
    Watch,
    api_load,
    figures,
    service_load,
    unplug,
)
from tests.support.services import Json
from tests.support.silence import told_by_the_kernel

log = logging.getLogger(__name__)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

PATIENT = 20.0
"""Seconds for a connection to a pod: none is to a host that dies, so none may fail at all."""
SLICES = "/apis/discovery.k8s.io/v1beta1/namespaces/default/endpointslices"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"
MAPS = "/api/v1/namespaces/default/configmaps"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
NETWORK = "10.213.0.0/21"
"""Seven subnets for five hosts: a worker that chose one of a master's would soon be noticed."""
LATE_ADDRESS = "203.0.113.7"
"""The endpoint that a service gets after the failure: an address of no pod (RFC 5737)."""
IMAGE = "barenode/busybox:lab"
SERVE = "mkdir /tmp/www; hostname > /tmp/www/index.html; exec httpd -f -p 80 -h /tmp/www"


def pod_spec(command: str) -> Json:
    """A pod of one shell command that ends at once when it is told to."""
    container = {"name": "c", "image": IMAGE, "command": ["sh", "-c", command]}
    return {"containers": [container], "terminationGracePeriodSeconds": 0}


def deployment(name: str, command: str) -> Json:
    """Two pods of *command*."""
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod_spec(command)}
    template["spec"]["containers"][0]["readinessProbe"] = {
        "exec": {"command": ["true"]}, "periodSeconds": 1,
    }  # fmt: skip
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def service(name: str, selector: Json | None) -> Json:
    """A service of port 80."""
    spec: Json = {"ports": [{"name": "web", "port": 80}]}
    spec |= {"selector": selector} if selector else {}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def late_slice() -> Json:
    """What gives the service ``late`` its endpoint, without a controller."""
    return {
        "apiVersion": "discovery.k8s.io/v1beta1",
        "kind": "EndpointSlice",
        "metadata": {"name": "late-1", "labels": {"kubernetes.io/service-name": "late"}},
        "addressType": "IPv4",
        "ports": [{"name": "web", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": [LATE_ADDRESS], "conditions": {"ready": True}}],
    }


def late_pod(worker: str) -> Json:
    """A pod that is bound to *worker* without a scheduler."""
    spec = {**pod_spec("exec sleep 10000"), "nodeName": worker}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"late-{worker}"}, "spec": spec}


class Agents:
    """netd and nodeagent of the workers, as their control sockets show them."""

    def __init__(self, kube: KubeLab) -> None:
        self._argv = {worker: kube.argv(worker) for worker in kube.workers}
        self._roots = {worker: kube.root(worker) for worker in kube.workers}

    def _status(self, worker: str, socket: str) -> Any:
        path = self._roots[worker] / socket
        status, data = asyncio.run(unixhttp.get(path, "/status", timeout=30.0))
        assert status == 200, data
        return json.loads(data)

    def netd_server(self, worker: str) -> str:
        """The API server that netd of *worker* follows, "" while it follows none."""
        api = self._status(worker, NETD_SOCKET)["services"]["api"]
        return str(api["server"] or "") if api["connected"] else ""

    def nodeagent_server(self, worker: str) -> str:
        """The API server that last answered nodeagent of *worker*."""
        return str(self._status(worker, NODEAGENT_SOCKET)["api"]["endpoint"] or "")

    def logs(self) -> dict[str, str]:
        """What netd and nodeagent of each worker have said."""
        return {
            f"{agent} of {worker}": (root / f"var/log/{agent}.log").read_text(errors="replace")
            for worker, root in self._roots.items()
            for agent in ("netd", "nodeagent")
        }

    def server(self) -> str:
        """The one that all use now, "" when there is none."""
        used = {
            ask(one) for one in self._roots for ask in (self.netd_server, self.nodeagent_server)
        }
        return used.pop() if len(used) == 1 else ""

    def netd_left(self, worker: str, used: str) -> bool:
        """Whether netd of *worker* follows another server than *used*."""
        return self.netd_server(worker) not in {"", used}

    def nodeagent_left(self, worker: str, used: str) -> bool:
        """Whether another server than *used* last answered nodeagent of *worker*."""
        return self.nodeagent_server(worker) not in {"", used}

    def has_rules(self, worker: str, address: str) -> bool:
        """Whether netd of *worker* leads anything to *address*."""
        variant = self._status(worker, NETD_SOCKET)["services"]["variant"]
        argv = [*self._argv[worker], f"iptables-{variant}-save", "--table=nat"]
        return address in subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def has_pod(self, worker: str, name: str) -> bool:
        """Whether nodeagent of *worker* knows the pod."""
        return name in {pod["name"] for pod in self._status(worker, NODEAGENT_SOCKET)["pods"]}


@dataclass
class Outage:
    """What was seen while the power of *victim* failed at *moment*; all times are Unix seconds.

    *server* is the API server of the *victim*, *moved* when an agent named another one, *written*
    when a living server took a change, *arrived* when an agent had it, *said* what an agent said
    meanwhile; keys say whose it was.
    """

    victim: str
    server: str
    living: tuple[str, ...]
    moment: float
    load: Load
    requests: Load
    watches: list[Watch]
    moved: dict[str, float] = field(default_factory=dict)
    written: dict[str, float] = field(default_factory=dict)
    arrived: dict[str, float] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)

    def after(self, times: dict[str, float]) -> dict[str, float]:
        """*times* as seconds since the power failed."""
        return {name: round(at - self.moment, 2) for name, at in sorted(times.items())}


def when(holds: Callable[[], bool], what: str) -> float:
    """When *holds* was first seen to, in Unix seconds."""
    KubeLab.wait(holds, what)
    return time.time()


@pytest.fixture(scope="module")
def lab() -> Iterator[KubeLab]:
    """Three masters, two workers, a service of two pods, and one without endpoints."""
    made = KubeLab(f"m{os.getpid()}", masters=3, workers=2, extra=("--network", NETWORK))
    try:
        made.up()
        server = ApiServer(made, made.masters[0])
        server.make(DEPLOYMENTS, deployment("pages", SERVE))
        server.make(SERVICES, service("pages", {"app": "pages"}))
        server.make(SERVICES, service("late", None))
        ready(made, server, "pages")
        yield made
    finally:
        made.down()


def ready(kube: KubeLab, server: ApiServer, app: str) -> list[Json]:
    """The two pods of *app*, once they are ready."""

    def look() -> list[Json]:
        pods: list[Json] = server.get(f"{PODS}?labelSelector=app={app}")["items"]
        return pods if len(pods) == 2 and all(map(is_ready, pods)) else []

    return kube.wait(look, f"the pods of {app} are ready", 180)


def url(server: ApiServer, name: str) -> str:
    """The address of a service."""
    return f"http://{server.get(f'{SERVICES}/{name}')['spec']['clusterIP']}/"


@pytest.fixture(scope="module")
def outage(lab: KubeLab) -> Iterator[Outage]:
    """The power of the master that all agents use has failed."""
    agents = Agents(lab)
    used = lab.wait(agents.server, "all agents use one server", 180)
    victim = next(host for host in lab.masters if f"//{lab.address(host)}:" in used)
    living = tuple(host for host in lab.masters if host != victim)
    servers = [ApiServer(lab, host) for host in living]
    tls = servers[0].tls
    version = servers[0].get(MAPS)["metadata"]["resourceVersion"]
    watches = [Watch(lab, host, tls, version) for host in living]
    load = service_load(lab, (*living, *lab.workers), url(servers[0], "pages"), connect=PATIENT)
    requests = api_load(lab, living, PODS, tls)
    with load, requests, watches[0], watches[1]:
        lab.wait(lambda: load.flowing(0) and requests.flowing(0), "the load flows")
        made = [f"before-{at}" for at in range(3)]
        for name in made:
            servers[0].make(MAPS, {"metadata": {"name": name}})
        before = agents.logs()
        seen = Outage(victim, used, living, unplug(lab, victim), load, requests, watches, made=made)
        killer = threading.Thread(target=lab.kill, args=(victim,))
        killer.start()
        _follow(lab, agents, seen, used, servers)
        killer.join()
        seen.said = {
            agent: text.removeprefix(before[agent]) for agent, text in agents.logs().items()
        }
        servers[0].make(DEPLOYMENTS, deployment("after", "exec sleep 10000"))
        ready(lab, servers[0], "after")
        lab.wait(
            lambda: all(watch.names[-1:] == seen.made[-1:] for watch in watches), "the last map"
        )
        since = time.time()
        lab.wait(lambda: load.flowing(since) and requests.flowing(since), "the load goes on")
    yield seen


def _follow(
    lab: KubeLab, agents: Agents, seen: Outage, used: str, servers: list[ApiServer]
) -> None:
    """Make changes at living servers, and note which agents moved and had each, and when."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        waiting: dict[str, Future[float]] = {}

        def watch(what: str, holds: Callable[[], bool]) -> None:
            waiting[what] = pool.submit(when, holds, what)

        for worker in lab.workers:
            watch(f"netd of {worker} moved", partial(agents.netd_left, worker, used))
            watch(f"nodeagent of {worker} moved", partial(agents.nodeagent_left, worker, used))
            watch(f"netd of {worker} knows", partial(agents.has_rules, worker, LATE_ADDRESS))
            watch(f"nodeagent of {worker} knows", partial(agents.has_pod, worker, f"late-{worker}"))
        written = servers[0].make(SLICES, late_slice())
        for worker in lab.workers:
            seen.written[f"netd of {worker}"] = written
            seen.written[f"nodeagent of {worker}"] = servers[1].make(PODS, late_pod(worker))
        for at in range(10):
            seen.made.append(f"during-{at}")
            servers[at % 2].make(MAPS, {"metadata": {"name": seen.made[-1]}})
        for what, moment in waiting.items():
            agent, _, verb = what.rpartition(" ")
            # What did not come about is for the tests to say.
            with suppress(AssertionError):
                (seen.moved if verb == "moved" else seen.arrived)[agent] = moment.result()


def test_no_request_to_a_service_fails(outage: Outage) -> None:
    """Neither at the workers nor at the living masters, and not a first attempt."""
    found = figures(outage.load.requests(since=outage.moment))
    log.info("service: %s", found)
    assert [one for one in outage.load.requests() if one.failures] == [], found


def test_agents_move_to_another_server_when_the_kernel_tells(outage: Outage) -> None:
    """They find out without a packet of the dead host, and wait for no deadline."""
    log.info("agents moved after seconds: %s", outage.after(outage.moved))
    assert outage.said.keys() == outage.moved.keys()
    for said in outage.said.values():
        told_by_the_kernel(said, outage.server)


def test_changes_made_after_the_failure_reach_every_agent(outage: Outage) -> None:
    """An endpoint and a pod. While etcd chooses a leader no change is taken."""
    arrived, written = outage.after(outage.arrived), outage.after(outage.written)
    log.info("changes taken after seconds: %s; known: %s", written, arrived)
    assert arrived.keys() == written.keys()


def test_the_living_servers_answer_every_request(outage: Outage) -> None:
    """Without leader etcd answers no reads that have to be up to date: clients ask again."""
    requests = outage.requests.requests(since=outage.moment)
    log.info("API: %s", figures(requests))
    assert [one for one in requests if not one.answered] == []


def test_watches_of_the_living_servers_see_every_change_once_and_in_order(outage: Outage) -> None:
    """Those before the failure and those during it."""
    log.info("broken watches: %s", {watch.host: watch.breaks for watch in outage.watches})
    assert [watch.names for watch in outage.watches] == [outage.made] * 2


def test_etcd_goes_on_with_two_and_others_lead(lab: KubeLab, outage: Outage) -> None:
    """Controllers and scheduler of a living master do the work: a deployment was made ready."""
    server = ApiServer(lab, outage.living[0])
    # A member that is slow for once is called unhealthy; a dead one is called nothing else.
    lab.wait(
        lambda: healthy_members(lab, outage.living[0]) == set(outage.living), "two are healthy"
    )
    for name in ("kube-controller-manager", "kube-scheduler"):
        holder = server.get(f"{LEASES}/{name}")["spec"]["holderIdentity"]
        assert holder.rpartition("_")[0] in outage.living, (name, holder)


ETCDS = ((2379, "etcd/ca", "etcd/healthcheck-client"), (12379, "ca", "netd"))
"""The port of each etcd of a master, the authority of its server, and a client of it."""


def healthy_members(lab: KubeLab, host: str) -> set[str]:
    """The masters both of whose etcds are healthy, as the administrator of *host* finds them."""
    return set.intersection(*(_healthy(lab, host, *etcd) for etcd in ETCDS))


def _healthy(lab: KubeLab, host: str, port: int, authority: str, client: str) -> set[str]:
    pki = "/etc/kubernetes/pki"
    flags = (
        f"--cacert={pki}/{authority}.crt", f"--cert={pki}/{client}.crt",
        f"--key={pki}/{client}.key",
    )  # fmt: skip
    urls = {f"https://{lab.address(one)}:{port}": one for one in lab.masters}
    argv = ("env", "ETCDCTL_API=3", "etcdctl", *flags, f"--endpoints={','.join(urls)}")
    # It ends with an error when one is not healthy, and says so in its answer.
    said = lab.exec(host, "sh", "-c", '"$@" 2>/dev/null || :', "-", *argv,
                    "endpoint", "health", "--write-out=json")  # fmt: skip
    return {urls[one["endpoint"]] for one in json.loads(said) if one["health"]}


def nodes_ready(server: ApiServer) -> set[str]:
    """The names of the nodes that are ready."""
    found = server.get("/api/v1/nodes")["items"]
    return {node["metadata"]["name"] for node in found if is_ready(node)}


def test_the_master_comes_back_and_then_another_may_die(lab: KubeLab, outage: Outage) -> None:
    """With three members again, the cluster goes on without any one of them."""
    lab.start(outage.victim)
    lab.wait(
        lambda: healthy_members(lab, outage.victim) == set(lab.masters), "etcd has three members"
    )
    victim, server = outage.living[0], ApiServer(lab, outage.victim)
    lab.wait(lambda: nodes_ready(server) == set(lab.hosts), "all nodes are ready")

    hosts = [host for host in lab.hosts if host != victim]
    with service_load(lab, hosts, url(server, "pages"), connect=PATIENT) as load:
        lab.wait(lambda: load.flowing(0), "the load flows")
        unplug(lab, victim)
        lab.kill(victim)
        server.make(DEPLOYMENTS, deployment("again", "exec sleep 10000"))
        ready(lab, server, "again")
        others = set(lab.masters) - {victim}
        lab.wait(lambda: healthy_members(lab, outage.victim) == others, "two are healthy")
        since = time.time()
        lab.wait(lambda: load.flowing(since), "the load goes on")
    assert [one for one in load.requests() if one.failures] == []
