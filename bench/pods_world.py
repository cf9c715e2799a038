"""The surroundings of a measurement of pods: a lab of one host, an API server, nodeagent.

The lab has etcd, netd and a real dockerd of its own, and no control plane: the API server and
nodeagent are started here, so that it can be any API server. Everything lives in the lab's
namespaces and cgroups and goes with it when ``ground`` ends, in whatever way.
"""

import contextlib
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.memory import memory, processor_time
from bench.pods_api import Client, Server
from bench.pods_docker import Docker
from bench.result import BenchError
from lab.machine import MANIFESTS
from lab.model import LabSpec
from lab.plan import FABRIC
from lab.store import Paths, Store

NAME = "bench-pods"
NODE = "node1"

_TOKEN = "bench"  # noqa: S105 - of an API server that lives for minutes in a namespace
_PLAIN_PORT, _TLS_PORT = 8080, 6443
_READY = 60.0
_LOOK = 0.05
# The bench may be killed; what it started must not stay.
_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


class Process:
    """A program on a host of the lab; its log is a file."""

    def __init__(self, host: str, log: Path, argv: Sequence[str]) -> None:
        self._log = log
        # An installed daemon has its bytecode; PYTHONDONTWRITEBYTECODE would measure the compiler.
        env = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
        with log.open("w") as out:
            self._process = subprocess.Popen(
                [*_lab("exec"), host, "--", *_WITH_US, *argv],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env,
                # It is the bench that an interrupt at the terminal concerns.
                start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """The program's process, as seen from here. Raises BenchError when it has ended."""
        self.check()
        # nsenter(1) waits for the program as its child, which is in another PID namespace.
        number = self._process.pid
        children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
        if not children:
            raise BenchError(f"nothing runs: {self.last_words()}")
        return int(children[0])

    def check(self) -> None:
        """Raise BenchError when it has ended."""
        if self._process.poll() is not None:
            raise BenchError(f"{self._log.stem} has ended: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-1500:] or "no log"

    def kill(self) -> None:
        """SIGKILL; the lab's end takes what that leaves."""
        self._process.kill()
        self._process.wait()


class Ground:
    """The lab with an API server and a nodeagent that run; use ``ground``."""

    def __init__(
        self, spec: LabSpec, server: Server, client: Client, agent: Process, docker: Docker
    ) -> None:
        self._agent = agent
        self._dockerd = _service(spec, "dockerd")
        self.server = server
        self.client = client
        self.docker = docker

    def check(self) -> None:
        """Raise BenchError when nodeagent has ended."""
        self._agent.check()

    def rss(self) -> tuple[float, float]:
        """Resident memory of nodeagent and of dockerd in MiB."""
        return memory(self._agent.pid)[0], memory(self._dockerd)[0]

    def used(self) -> tuple[float, float]:
        """Processor time of nodeagent and of dockerd so far, of what they have run, too."""
        return processor_time(self._agent.pid), processor_time(self._dockerd)


@contextlib.contextmanager
def ground(*, embedded: bool = False) -> Iterator[Ground]:
    """A Ground for the time of the context; *embedded* has the lab's own API server, even where
    there is a kube-apiserver. Raises BenchError."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        spec = stack.enter_context(_made(directory))
        binary = None if embedded else kube_apiserver()
        server, process = (
            _embedded(spec, directory) if binary is None else _real(spec, directory, binary)
        )
        stack.callback(process.kill)
        client = Client(server)
        stack.callback(client.close)
        _until(lambda: client.answers("/readyz"), process, server.what)
        _until(lambda: client.answers("/api/v1/namespaces/default"), process, server.what)
        agent = Process(NODE, directory / "nodeagent.log", _agent_argv(spec, directory, server))
        stack.callback(agent.kill)
        _until(lambda: _node_ready(client), agent, f"node {NODE}")
        docker = Docker(f"/proc/{spec.processes[NODE].pid}/root/run/docker.sock")
        stack.callback(docker.close)
        yield Ground(spec, server, client, agent, docker)


def kube_apiserver() -> Path | None:
    """The kube-apiserver that lab/assets/kubernetes.sh has built; None where it has not."""
    found = Paths.standard(os.environ).cache.glob("kubernetes/*/bin/kube-apiserver")
    return max((one for one in found if os.access(one, os.X_OK)), default=None)


@contextlib.contextmanager
def _made(directory: Path) -> Iterator[LabSpec]:
    """The lab, with an image for the pods."""
    refused = False
    try:
        try:
            _run(*_lab("up"), "--nodes", "1", "--control-plane", "none")
        except BenchError:
            # It may be there already, and another's.
            refused = True
            raise
        image = directory / "busybox.tar"
        _run(sys.executable, "-m", "lab", "image", "build", "busybox", "-o", str(image))
        _run(*_lab("load"), str(image))
        spec = Store(Paths.standard(os.environ)).load(NAME)
        if spec is None:
            raise BenchError(f"lab {NAME} has gone")
        yield spec
    finally:
        if not refused:
            _run(*_lab("down"))


def _lab(command: str) -> list[str]:
    return [sys.executable, "-m", "lab", "lab", command, "--name", NAME]


def _run(*argv: str) -> None:
    """Run a command of the operator's. Raises BenchError with its last words."""
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        _, said = process.communicate()
    except BaseException:
        # SIGTERM has it remove what it made.
        process.terminate()
        process.communicate()
        raise
    if process.returncode:
        last = said.strip().splitlines()[-1:] or ["no message"]
        raise BenchError(last[0])


def _service(spec: LabSpec, name: str) -> int:
    """The process of a service of the node, as seen from here."""
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            lines = dict(
                line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line
            )
            if lines["Name"] == name and int(lines["PPid"]) == spec.processes[NODE].pid:
                return int(path.parent.name)
    raise BenchError(f"{name} does not run")


# --- API servers ---


def _embedded(spec: LabSpec, directory: Path) -> tuple[Server, Process]:
    address = spec.fabric.address
    argv = [
        sys.executable, "-m", "lab.api", f"--etcd={spec.etcd}",
        f"--listen={address}:{_PLAIN_PORT}", "--no-controllers",
    ]  # fmt: skip
    server = Server(spec.fabric.netns, address, _PLAIN_PORT, "the lab's API server")
    return server, Process(FABRIC, directory / "api.log", argv)


def _real(spec: LabSpec, directory: Path, binary: Path) -> tuple[Server, Process]:
    """A kube-apiserver of Kubernetes 1.20 with a certificate that it makes itself."""
    address, certs = spec.fabric.address, directory / "certs"
    certs.mkdir()
    tokens, key = directory / "tokens.csv", directory / "accounts.key"
    tokens.write_text(f"{_TOKEN},admin,1,system:masters\n")
    (directory / "token").write_text(_TOKEN)
    _run("openssl", "genrsa", "-out", str(key), "2048")
    argv = [
        str(binary), f"--etcd-servers={spec.etcd}", f"--bind-address={address}",
        f"--advertise-address={address}", f"--secure-port={_TLS_PORT}", f"--cert-dir={certs}",
        f"--token-auth-file={tokens}", "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-signing-key-file={key}", f"--service-account-key-file={key}",
        "--service-cluster-ip-range=10.254.0.0/24",
        # Pods would need an account whose token only a controller manager makes.
        "--disable-admission-plugins=ServiceAccount",
    ]  # fmt: skip
    process = Process(FABRIC, directory / "kube-apiserver.log", argv)
    # It holds the certificate and that of the authority it was signed by.
    cert = certs / "apiserver.crt"
    _until(lambda: cert.exists() and cert.read_text().endswith("--\n"), process, "a certificate")
    context = ssl.create_default_context(cafile=cert)
    what = f"kube-apiserver {binary.parents[1].name.rpartition('really')[2].partition('-')[0]}"
    server = Server(spec.fabric.netns, address, _TLS_PORT, what, context, _TOKEN)
    return server, process


def _agent_argv(spec: LabSpec, directory: Path, server: Server) -> list[str]:
    member = spec.member(NODE)
    assert member is not None
    argv = [
        str(Path(sys.executable).with_name("nodeagent")), "run", f"--config={MANIFESTS}",
        f"--hostname-override={NODE}", f"--node-ip={member.address}",
    ]  # fmt: skip
    if server.context is None:
        return [*argv, f"--api-servers=http://{server.address}:{server.port}"]
    return [
        *argv, f"--api-servers=https://{server.address}:{server.port}",
        f"--kube-cafile={directory / 'certs' / 'apiserver.crt'}",
        f"--kube-token-file={directory / 'token'}",
    ]  # fmt: skip


def _node_ready(client: Client) -> bool:
    if not client.answers(f"/api/v1/nodes/{NODE}"):
        return False
    found = client.do("GET", f"/api/v1/nodes/{NODE}")
    conditions = found["status"].get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _until(condition: Callable[[], bool], process: Process, what: str) -> None:
    """Wait until *condition*. Raises BenchError when *process* ends, or does not make it true."""
    deadline = time.monotonic() + _READY
    while not condition():
        process.check()
        if time.monotonic() > deadline:
            raise BenchError(f"{what} is not ready: {process.last_words()}")
        time.sleep(_LOOK)
