"""A lab host whose nodeagent talks to two real kube-apiservers as a node of a real cluster does.

    fabric: etcd, kube-apiserver x 2 --- node1: netd, dockerd, nodeagent

The node is a user of the group system:nodes behind the Node authorizer and NodeRestriction; the
API servers reach its server with a client certificate, and check its certificate.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from lab import host
from lab.probe import node_environment
from lab.recipes import RECIPES
from tests.support.kubernetes import ADMIN, Apiserver, Apiservers, Kubectl
from tests.support.netns import Namespace, eventually
from tests.support.services import Json

NODE = "node1"
IMAGE = RECIPES["busybox"].config.tag
MANIFESTS = "/etc/kubernetes/manifests"
IDLE = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
"""A command that does nothing until it is asked to end."""
PATIENCE = 60.0
"""Seconds after which what has not happened will not."""


def barenode(*argv: str, check: bool = True) -> str:
    """Run the operator's command; its output."""
    done = subprocess.run(
        [sys.executable, "-m", "lab", *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or not check, f"barenode {argv}: {done.stdout}{done.stderr}"
    return done.stdout


class RealNode:
    """The host, its agent and the API servers of the lab *name*."""

    def __init__(self, name: str, directory: Path, binary: Path) -> None:
        found = json.loads(barenode("lab", "status", "--name", name, "--json"))
        (node,) = found["nodes"]
        self._pid = int(node["pid"])
        self.address = str(node["address"])
        self.root = Path(f"/proc/{self._pid}/root")
        self.directory = directory
        self._log = directory / "nodeagent.log"
        self._agent: subprocess.Popen[str] | None = None
        fabric = found["fabric"]
        self.space = Namespace("fabric")
        self.space.name = f"bn-{name}-fabric"
        self.space.path = Path("/run/netns") / self.space.name
        first, second = fabric["address"], fabric["address"].removesuffix(".1") + ".2"
        link = self.space.json(f"ip address show to {first}")[0]["ifname"]
        self.space.run(f"ip address add {second}/24 dev {link}")
        self.api = Apiservers(
            self.space, directory, f"http://{first}:2379", binary, addresses=(first, second),
            flags=self._api_flags(directory),
        )  # fmt: skip

    @staticmethod
    def _api_flags(directory: Path) -> list[str]:
        certs = directory / "certs"
        return [
            "--authorization-mode=Node,RBAC",
            # As by default from 1.21 on: each pod gets a token of its own by a projected volume.
            "--feature-gates=BoundServiceAccountTokenVolume=true",
            "--disable-admission-plugins=DefaultStorageClass",
            "--enable-admission-plugins=NodeRestriction",
            "--api-audiences=https://kubernetes.default.svc",
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-certificate-authority={certs / 'test-ca.pem'}",
            f"--kubelet-client-certificate={certs / 'kubelet-client.pem'}",
            f"--kubelet-client-key={certs / 'kubelet-client.key'}",
        ]

    @property
    def servers(self) -> list[Apiserver]:
        """The API servers; the agent prefers the first."""
        return self.api.servers

    def prepare(self) -> None:
        """Issue the certificates and start the API servers."""
        self.api.authority.issue(
            "kubelet-client", cn="kube-apiserver/O=system:masters", usage="clientAuth"
        )
        self._serving = self.api.authority.issue("kubelet", sans=f"IP:{self.address}", cn=NODE)
        self._client = self.api.client_certificate(f"system:node:{NODE}", "system:nodes")
        self._kubeconfig = self.directory / "kubeconfig"
        self._kubeconfig.write_text(self._kubeconfig_text())
        self.api.start()

    def _kubeconfig_text(self) -> str:
        cluster = {
            "server": self.servers[0].url, "certificate-authority": str(self.api.authority.cert)
        }  # fmt: skip
        user = {"client-certificate": str(self._client.cert), "client-key": str(self._client.key)}
        return json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "real", "cluster": cluster}],
            "users": [{"name": NODE, "user": user}],
            "contexts": [{"name": "here", "context": {"cluster": "real", "user": NODE}}],
        })  # fmt: skip

    # --- the host ---

    def argv(self, *command: str) -> list[str]:
        """The command line that runs *command* on the host."""
        kinds = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        return ["nsenter", f"--target={self._pid}", *kinds, "--", *command]

    def run(self, *command: str, check: bool = True) -> str:
        """The output of a command on the host."""
        done = subprocess.run(
            self.argv(*command), capture_output=True, text=True, check=False, timeout=PATIENCE,
            env=node_environment(dict(os.environ)),
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"{command}: {done.stderr or done.stdout}"
        return done.stdout

    def docker(self, *words: str) -> str:
        """The output of Docker's client."""
        return self.run(host.docker_client(), *words).strip()

    def containers(self, pod: str) -> dict[str, str]:
        """When each running container of *pod* was started, by its id."""
        found = self.docker("ps", "-q", "--no-trunc", "--filter", f"name=_{pod}_default_")
        ids = found.split()
        form = "{{.Id}} {{.State.StartedAt}}"
        # One may go between the list and this; Docker has an empty line for it, or none.
        found = self.run(host.docker_client(), "inspect", "-f", form, *ids, check=False)
        lines = found.splitlines() if ids else []
        return dict(line.split() for line in lines if line)

    # --- the agent ---

    def start(self) -> None:
        """Start nodeagent; does not wait."""
        servers = ",".join(one.url for one in self.servers)
        argv = self.argv(
            "setpriv", "--pdeathsig", "KILL", "--", host.daemon("nodeagent"), "run",
            f"--kubeconfig={self._kubeconfig}", f"--api-servers={servers}",
            f"--config={MANIFESTS}", f"--hostname-override={NODE}", f"--node-ip={self.address}",
            f"--tls-cert-file={self._serving.cert}",
            f"--tls-private-key-file={self._serving.key}",
            f"--client-ca-file={self.api.authority.cert}", "--container-backoff-first=1s",
            "--cluster-dns=10.0.0.10",
        )  # fmt: skip
        with self._log.open("a") as log:
            self._agent = subprocess.Popen(
                argv, stdout=log, stderr=log, text=True, env=node_environment(dict(os.environ))
            )

    def kill(self) -> None:
        """SIGKILL to the agent."""
        if self._agent is not None and self._agent.poll() is None:
            nsenter = self._agent.pid
            children = Path(f"/proc/{nsenter}/task/{nsenter}/children").read_text().split()
            for child in children:
                os.kill(int(child), signal.SIGKILL)
            self._agent.wait()

    def log(self) -> str:
        """What the agent has said so far."""
        return self._log.read_text(errors="replace")

    # --- the cluster ---

    def kubectl(self, *words: str, stdin: str = "", server: int = 0) -> str:
        """The output of kubectl, which must succeed."""
        return self._kubectl(server).run(*words, stdin=stdin)

    def logs(self, wanted: str, *words: str) -> None:
        """Wait until kubectl logs *words* is *wanted*: a container says nothing before it runs."""
        eventually(
            lambda: self.kubectl("logs", *words) == wanted, f"the logs of {words} are {wanted!r}",
            deadline=PATIENCE, interval=0.2,
        )  # fmt: skip

    def refused(self, *words: str) -> str:
        """What kubectl, which must fail, says."""
        done = self._kubectl(0)(*words)
        assert done.returncode != 0, f"kubectl {' '.join(words)}: {done.stdout}"
        return done.stderr

    @contextlib.contextmanager
    def followed(self, *words: str) -> Iterator[IO[str]]:
        """The output of a kubectl that goes on."""
        with subprocess.Popen(
            self._kubectl(0).argv(*words), stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            try:
                yield process.stdout
            finally:
                process.kill()

    def _kubectl(self, server: int) -> Kubectl:
        return Kubectl(
            self.space, self.directory, self.servers[server].url,
            f"--certificate-authority={self.api.authority.cert}", f"--token={ADMIN}",
        )  # fmt: skip

    def get(self, kind: str, name: str, namespace: str = "default") -> Json:
        """An object, {} when there is none."""
        where = f"/namespaces/{namespace}" if namespace else ""
        status, found = self.api.request("GET", f"/api/v1{where}/{kind}/{name}")
        assert status in {200, 404}, found
        return found if status == 200 else {}

    def make(self, kind: str, body: Json, namespace: str = "default") -> Json:
        """Create an object."""
        return self.api.do("POST", f"/api/v1/namespaces/{namespace}/{kind}", body)

    def until(self, pod: str, holds: Callable[[Json], Any], what: str) -> Json:
        """The pod once *holds* says so of it."""
        found: Json = {}

        def look() -> bool:
            found.clear()
            with contextlib.suppress(OSError, StopIteration):
                found.update(self.get("pods", pod))
            return bool(found) and bool(holds(found))

        try:
            eventually(look, what, deadline=PATIENCE, interval=0.05)
        except AssertionError as error:
            status = json.dumps(found.get("status"), indent=1)
            raise AssertionError(f"{error}: {status}\n{self.log()[-3000:]}") from None
        return found

    def ready(self, pod: str) -> Json:
        """The pod once it is ready."""
        return self.until(pod, lambda one: condition(one, "Ready") == "True", f"{pod} is ready")

    def clean(self) -> None:
        """Remove all pods."""
        self.kubectl("delete", "pods", "--all", "--wait=false", "--grace-period=0", "--force")
        self.run("sh", "-c", f"rm -f {MANIFESTS}/*")
        ours = ("ps", "-q", "--filter", "label=barenode.nodeagent")
        eventually(
            lambda: not self.docker(*ours), "all pods are gone", deadline=PATIENCE, interval=0.05
        )

    def gone(self, pod: str) -> None:
        """Wait until there is no such pod, nor any container of it."""
        eventually(
            lambda: not self.get("pods", pod) and not self.containers(pod),
            f"{pod} is gone", deadline=PATIENCE, interval=0.05,
        )  # fmt: skip


def condition(obj: Mapping[str, Any], kind: str) -> str:
    """The status of a condition, "" for none."""
    listed = obj.get("status", {}).get("conditions", ())
    return next((one["status"] for one in listed if one["type"] == kind), "")


def container(command: str = IDLE, name: str = "c", **more: Any) -> Json:
    """A container of a pod."""
    return {"name": name, "image": IMAGE, "command": ["sh", "-c", command], **more}


def pod(name: str, *containers: Json, **spec: Any) -> Json:
    """A pod that is bound to the node."""
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": NODE, "terminationGracePeriodSeconds": 2,
            "containers": list(containers) or [container()], **spec,
        },
    }  # fmt: skip


def only(found: Json) -> Json:
    """The status of a pod's only container."""
    (one,) = found["status"]["containerStatuses"]
    assert isinstance(one, dict)
    return one


def restarts(found: Json) -> int:
    """How often a pod's only container was started again, -1 before its first start."""
    listed = found["status"].get("containerStatuses", ())
    return int(listed[0]["restartCount"]) if listed else -1


def columns(text: str) -> list[list[str]]:
    """What kubectl prints as a table."""
    return [line.split() for line in text.splitlines()]


@contextlib.contextmanager
def real_node(directory: Path, binary: Path) -> Iterator[RealNode]:
    """A RealNode whose API servers and agent run; removed with the context."""
    assert shutil.which("kubectl"), "kubectl is missing: install Debian's kubernetes-client"
    name = f"r{os.getpid()}"
    image = directory / "busybox.tar"
    barenode("lab", "up", "--name", name, "--nodes", "1", "--control-plane", "none")
    try:
        barenode("image", "build", "busybox", "-o", str(image))
        barenode("lab", "load", "--name", name, str(image))
        node = RealNode(name, directory, binary)
        try:
            node.prepare()
            node.start()
            node.make("serviceaccounts", {"metadata": {"name": "default"}})
            root = {"ca.crt": node.api.authority.cert.read_text()}
            node.make("configmaps", {"metadata": {"name": "kube-root-ca.crt"}, "data": root})
            yield node
        finally:
            node.kill()
            node.api.kill()
            node.api.close()
    finally:
        barenode("lab", "down", "--name", name)
