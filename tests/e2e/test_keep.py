"""``lab down --keep`` and ``lab up``: a lab whose hosts lost their power comes back from its disks.

Nothing is made anew: not what users made, not the subnets, not the keys. Containers are started
again in the pods that were there, and what a pod wrote to its host's disk is there.
"""

import hashlib
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lab.master.staticpod import PKI
from lab.store import Paths
from tests.e2e.conftest import Operator
from tests.support.kubelab import UP_SECONDS, KubeLab, is_ready
from tests.support.services import Json

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

PODS = "/api/v1/pods"
DIARY = "/var/local/diary"
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: diary}
spec:
  replicas: 2
  selector: {matchLabels: {app: diary}}
  template:
    metadata: {labels: {app: diary}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: web
          image: barenode/busybox:lab
          command: [sh, -c, 'hostname >> /diary/index.html; exec httpd -f -p 80 -h /diary']
          readinessProbe: {tcpSocket: {port: 80}, periodSeconds: 1, timeoutSeconds: 10}
          volumeMounts: [{name: diary, mountPath: /diary}]
      volumes: [{name: diary, hostPath: {path: /var/local/diary, type: DirectoryOrCreate}}]
---
apiVersion: v1
kind: Service
metadata: {name: diary}
spec:
  type: NodePort
  selector: {app: diary}
  ports: [{port: 80, nodePort: 30062}]
"""


class KeptLab(KubeLab):
    """A lab that is taken down to be kept, and boots again."""

    def try_command(self, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        """One command about the lab, whatever comes of it."""
        return subprocess.run(
            [sys.executable, "-m", "lab", "lab", verb, "--name", self.name, *words],
            capture_output=True, text=True, check=False, timeout=UP_SECONDS,
        )  # fmt: skip

    def halt(self) -> None:
        """``down --keep``."""
        self._end_proxy()
        self._barenode("down", "--keep", timeout=UP_SECONDS)

    def boot(self) -> None:
        """``up`` of what was kept."""
        self._barenode("up", timeout=UP_SECONDS)
        self._look()


def made(kube: KubeLab) -> dict[str, Any]:
    """What must be the same after a boot."""
    services = kube.items("/api/v1/services")
    paths = Paths.standard({})
    # On the disks only there: Docker makes files of the same names where it mounts these.
    disks = (paths.disk(kube.name, host) / PKI.lstrip("/") for host in kube.hosts)
    folders = (paths.pki(kube.name), *disks)
    return {
        "services": {one["metadata"]["name"]: one["spec"]["clusterIP"] for one in services},
        "subnets": {one["name"]: one["subnet"] for one in kube.status()["nodes"]},
        "nodes": {one["metadata"]["uid"] for one in kube.items("/api/v1/nodes")},
        "deployments": {
            one["metadata"]["uid"]: one["spec"]["replicas"]
            for one in kube.items("/apis/apps/v1/deployments")
        },
        "pods": {pod["metadata"]["uid"] for pod in kube.items(PODS, "app=diary")},
        "keys": {
            str(path): digest(path)
            for folder in folders
            for path in folder.rglob("*.*")
            if path.is_file()
        },
    }


def digest(path: Path) -> str:
    """What tells this file from another."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def all_ready(kube: KubeLab, count: int) -> list[Json]:
    """The pods of the diary once they and all nodes are ready, and as many restarts are known."""

    def look() -> list[Json]:
        pods = kube.items(PODS, "app=diary")
        nodes = kube.items("/api/v1/nodes")
        done = all(map(is_ready, [*pods, *nodes])) and len(pods) == 2
        restarts = [one["restartCount"] for pod in pods for one in statuses(pod)]
        return pods if done and restarts == [count, count] else []

    return kube.wait(look, f"all is ready, after {count} restarts", 180)


def statuses(pod: Json) -> list[Json]:
    """The statuses of a pod's containers."""
    found: list[Json] = pod["status"].get("containerStatuses") or []
    return found


def running(kube: KubeLab) -> Counter[tuple[str, str, str]]:
    """How many living containers there are of each pod (UID), by host and name in the pod."""
    form = '{{.Label "io.kubernetes.pod.uid"}} {{.Label "io.kubernetes.container.name"}}'
    found: Counter[tuple[str, str, str]] = Counter()
    for host in kube.hosts:
        for line in kube.docker(host, "ps", "--format", form).splitlines():
            uid, name = line.split()
            found[uid, host, name] += 1
    return found


def wanted(kube: KubeLab) -> Counter[tuple[str, str, str]]:
    """What ``running`` has to be by the API: a sandbox and each container once.

    Of a static pod the API has a mirror, whose annotation is the UID that its containers bear.
    """
    found: Counter[tuple[str, str, str]] = Counter()
    for pod in kube.items(PODS):
        metadata, spec = pod["metadata"], pod["spec"]
        mirrored = metadata.get("annotations", {}).get("kubernetes.io/config.mirror")
        for name in ("POD", *(one["name"] for one in spec["containers"])):
            found[mirrored or metadata["uid"], spec["nodeName"], name] = 1
    return found


def test_a_kubernetes_comes_back_from_its_etcd(operator: Operator) -> None:
    """Master and worker; afterwards ``down`` of a kept lab leaves nothing."""
    kube = KeptLab(operator.name(), masters=1, workers=1)
    try:
        kube.up()
        kube.apply(DEPLOYMENT)
        names = sorted(pod["metadata"]["name"] for pod in all_ready(kube, 0))
        before = made(kube)

        operator.status(operator.name())
        kube.halt()
        assert operator.survivors() == {}
        assert "'barenode lab up" in kube.try_command("exec", "node1", "--", "true").stderr
        refused = kube.try_command("up", "--nodes", "3")
        assert (refused.returncode, "leave out --nodes" in refused.stderr) == (2, True)
        kube.halt()  # once more changes nothing

        kube.boot()
        all_ready(kube, 1)
        assert made(kube) == before
        kube.wait(lambda: running(kube) == wanted(kube), "each container is there once")
        pages = [
            kube.wait(partial(kube.curl, "fabric", url), f"{url} answers")
            for url in (f"http://{kube.address(host)}:30062/" for host in kube.hosts)
        ]
        assert {tuple(sorted(page.split())) for page in pages} == {tuple(sorted(names * 2))}
        kube.halt()
    finally:
        kube.down()
    assert kube.try_command("status").returncode != 0


def test_an_embedded_lab_comes_back_with_a_host_that_was_dead(operator: Operator) -> None:
    """Its etcd is on the fabric. The dead host boots with the others."""
    kube = KeptLab(operator.name(), workers=2, plane="embedded")
    try:
        kube.up()
        kube.apply(DEPLOYMENT)
        all_ready(kube, 0)
        before = made(kube)
        kube.kill("node2")
        kube.halt()
        kube.boot()
        all_ready(kube, 1)
        assert made(kube) == before
        kube.wait(lambda: running(kube) == wanted(kube), "each container is there once")
    finally:
        kube.down()
