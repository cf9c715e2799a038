"""The ingress of docs/examples: HAProxy in front of the nginx of two workers, one of which dies.

The rule that holds: of the requests under way when the host dies, and only of those, some may
fail: at most one of each client, that asks for one thing at a time. All that begin later are
answered, those before HAProxy's check has noticed as well as those after.
"""

import contextlib
import csv
import http.client
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.support.kubelab import KubeLab, is_ready
from tests.support.netns import enter

pytestmark = pytest.mark.e2e

EXAMPLE = Path("docs/examples/ingress").absolute()
SITES = ("shop", "blog")
SCHEMES = ("http", "https")
PATIENCE = 30.0
"""Seconds for one request on a busy machine: far more than any time-out of HAProxy and nginx."""


def fetch(address: str, scheme: str, name: str) -> str:
    """The page of the site *name* at *address*, over a new connection; raises OSError.

    Any answer but 200 is an OSError, too.
    """
    connection: http.client.HTTPConnection
    if scheme == "https":
        # The certificate is the test's own; nginx chooses it without looking at the name.
        trusting = ssl._create_unverified_context()  # noqa: S323
        connection = http.client.HTTPSConnection(address, timeout=PATIENCE, context=trusting)
    else:
        connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    try:
        connection.request("GET", "/", headers={"Host": f"{name}.example"})
        response = connection.getresponse()
        text = response.read().decode()
    except http.client.HTTPException as error:
        raise ConnectionError(repr(error)) from error
    finally:
        connection.close()
    if response.status != 200:
        raise ConnectionError(f"{response.status} {response.reason}")
    return text


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it began and ended (monotonic), and "" or what went wrong."""

    began: float
    ended: float
    failure: str


@dataclass
class Client:
    """Asks for the page of one site, again and again, one request at a time."""

    network: Path
    address: str
    scheme: str
    site: str
    done: list[Request] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until told to stop; for a thread of its own."""
        enter(self.network)
        while not self.stop.is_set():
            began, failure = time.monotonic(), ""
            try:
                text = fetch(self.address, self.scheme, self.site)
                failure = "" if text.startswith(f"{self.site} from ") else f"answered {text!r}"
            except OSError as error:
                failure = repr(error)
            self.done.append(Request(began, time.monotonic(), failure))
            self.stop.wait(0.01)

    def answered_after(self, moment: float) -> int:
        """How many requests that began after *moment* were answered."""
        return sum(1 for one in list(self.done) if one.began > moment and not one.failure)


class Haproxy:
    """HAProxy on the fabric, with the configuration of the example."""

    def __init__(self, kube: KubeLab, directory: Path) -> None:
        self._socket = directory / "admin.sock"
        workers = {
            f"WORKER{at}": kube.address(host) for at, host in enumerate(kube.workers[:2], start=1)
        }
        self._environment = {**os.environ, **workers, "HAPROXY_RUN": str(directory)}
        self._argv = [
            "nsenter", f"--net={kube.network('fabric')}", "--",
            "haproxy", "-db", "-f", str(EXAMPLE / "haproxy.cfg"),
        ]  # fmt: skip

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While the context lasts."""
        with subprocess.Popen(
            self._argv, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                yield
            finally:
                process.terminate()

    def states(self) -> dict[tuple[str, str], str]:
        """What HAProxy thinks of each server, by backend and server; raises OSError."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(self._socket))
            client.sendall(b"show stat\n")
            answer = b"".join(iter(lambda: client.recv(65536), b"")).decode()
        rows = csv.DictReader(answer.removeprefix("# ").splitlines())
        return {
            (row["pxname"], row["svname"]): row["status"].split()[0]
            for row in rows
            if row["svname"].startswith("worker")
        }

    def agrees(self, state: str, *servers: str) -> bool:
        """Whether all of *servers* are in *state*, for both protocols."""
        found = self.states()
        return all(found[backend, server] == state for backend in SCHEMES for server in servers)


@pytest.fixture(scope="module")
def ingress(kube: KubeLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Haproxy]:
    """The example: both sites, nginx on both workers, and HAProxy, which has found them well."""
    directory = tmp_path_factory.mktemp("ingress")
    certificate, key = directory / "tls.crt", directory / "tls.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=shop.example",
         "-addext", "subjectAltName=DNS:shop.example,DNS:blog.example",
         "-out", str(certificate), "-keyout", str(key)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    kube.kubectl("label", "nodes", *kube.workers, "ingress=nginx")
    kube.kubectl("create", "secret", "tls", "ingress-tls", f"--cert={certificate}", f"--key={key}")
    try:
        kube.apply(EXAMPLE / "ingress.yaml")
        for site in SITES:
            kube.ready_pods(f"app={site}", 2)
        kube.ready_pods("app=ingress", len(kube.workers))
        haproxy = Haproxy(kube, directory)
        with haproxy.running():
            kube.wait(lambda: haproxy.agrees("UP", "worker1", "worker2"), "HAProxy finds both")
            yield haproxy
    finally:
        kube.delete_all()
        kube.kubectl("label", "nodes", *kube.workers, "ingress-")


@contextlib.contextmanager
def asking(kube: KubeLab) -> Iterator[list[Client]]:
    """Clients of both sites by both protocols, beside the cluster's hosts."""
    clients = [
        Client(kube.network("fabric"), kube.address("fabric"), scheme, site)
        for scheme in SCHEMES
        for site in SITES
    ]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        for client in clients:
            client.stop.set()
        for thread in threads:
            thread.join()


def test_names_lead_to_their_sites_through_every_host(kube: KubeLab, ingress: Haproxy) -> None:
    """By HTTP and HTTPS, at each worker itself and at HAProxy; unknown names lead nowhere."""
    for address in (*map(kube.address, kube.workers), kube.address("fabric")):
        for scheme in SCHEMES:
            for site in SITES:
                name = f"{site}.example"
                words = ("--insecure", "--connect-to", f"{name}::{address}:")
                url = f"{scheme}://{name}/"
                # A host may know a site's endpoints a little later than the pods are ready.
                said = kube.wait(partial(kube.curl, "fabric", url, *words), f"{url} at {address}")
                assert said.startswith(f"{site} from {site}-"), f"{url} at {address}: {said!r}"
            assert kube.curl("fabric", f"{scheme}://{address}/", "--insecure") == ""


def test_a_worker_dies_and_the_other_answers_all_that_is_asked_from_then_on(
    kube: KubeLab, ingress: Haproxy
) -> None:
    """What was under way may be lost; then HAProxy goes on with the other, and takes it back."""
    victim = kube.workers[1]
    try:
        with asking(kube) as clients:
            kube.wait(
                lambda: all(client.answered_after(0) >= 20 for client in clients),
                "every client has been answered",
            )
            assert not [one for client in clients for one in client.done if one.failure]
            kube.kill(victim)
            killed = time.monotonic()
            kube.wait(lambda: ingress.agrees("DOWN", "worker2"), "HAProxy has noticed", 60)
            noticed = time.monotonic()
            kube.wait(
                lambda: all(client.answered_after(noticed) >= 20 for client in clients),
                "every client is answered, now that one worker is left",
            )
            assert ingress.agrees("UP", "worker1")
        for client in clients:
            lost = [one for one in client.done if one.failure]
            told = f"{client.scheme} {client.site}, killed at {killed}: {len(lost)} of "
            told += f"{len(client.done)} failed: {lost[:5]}"
            assert len(lost) <= 1, told
            assert all(one.began < killed for one in lost), told
    finally:
        kube.start(victim)
    kube.wait(lambda: ingress.agrees("UP", "worker2"), "HAProxy has taken the worker back")
    node = f"/api/v1/nodes/{victim}"
    kube.wait(lambda: is_ready(kube.api("GET", node)[1]), "the cluster has taken it back")
    for site in SITES:
        kube.ready_pods(f"app={site}", 2)
