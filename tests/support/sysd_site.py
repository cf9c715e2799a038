"""A test host that is a whole node: netd, Docker and nodeagent with a pod behind a service."""

import functools
import json
import re
from dataclasses import dataclass
from typing import Any

from lab.recipes import RECIPES
from tests.support.etcd import EtcdCluster
from tests.support.netns import Namespace
from tests.support.sysd import Fabric, Host, wait_for

IMAGE = RECIPES["busybox"].config.tag
NETWORK = '{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}'
SERVICE_RANGE = "10.254.0.0/16"
VIP = "10.254.0.80"
POD = f"""\
apiVersion: v1
kind: Pod
metadata: {{name: web, labels: {{app: web}}}}
spec:
  securityContext: {{fsGroup: 4711}}
  containers:
  - name: web
    image: {IMAGE}
    command: [sh, -c, "id -G > /page/index.html; trap exit TERM; httpd -f -p 8080 -h /page & wait"]
    securityContext: {{runAsUser: 1000}}
    readinessProbe: {{exec: {{command: [test, -s, /page/index.html]}}, periodSeconds: 1}}
    volumeMounts:
    - {{name: page, mountPath: /page}}
    - {{name: part, mountPath: /part, subPath: deep/down}}
    - {{name: names, mountPath: /names}}
  volumes:
  - {{name: page, emptyDir: {{medium: Memory}}}}
  - {{name: part, emptyDir: {{}}}}
  - name: names
    downwardAPI: {{items: [{{path: name, fieldRef: {{fieldPath: metadata.name}}}}]}}
"""
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {
        "clusterIP": VIP,
        "selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": 8080}],
    },
}


@dataclass(frozen=True)
class Site:
    """One host, installed and booted as a node, and what it talks to."""

    net: Fabric
    etcd: EtcdCluster
    host: Host
    api: str

    def netd(self) -> dict[str, Any]:
        """netd's status document."""
        text = self.host.run("netd", "status", "--json", check=False).stdout
        return json.loads(text) if text else {}

    def settled(self) -> None:
        """Wait until every service runs and netd and the pod are ready."""
        host = self.host
        for unit in ("netd", "docker", "nodeagent"):
            wait_for(functools.partial(active, host, unit), f"{unit} is active")
        wait_for(lambda: self.netd().get("ready"), "netd is ready")
        wait_for(self.page, "the service answers")

    def page(self) -> str:
        """What the pod's service answers on the host, nothing if it does not."""
        words = ("curl", "-sf", "--max-time", "10", f"http://{VIP}/")
        return self.host.run(*words, check=False).stdout

    def post(self, path: str, body: dict[str, Any]) -> None:
        """Create an object at the API server."""
        words = ("curl", "-sS", "--fail-with-body", "-H", "Content-Type: application/json")
        data = json.dumps(body)
        self.host.run(*words, "--data-binary", "@-", f"{self.api}{path}", stdin=data)


def active(host: Host, unit: str) -> bool:
    """Whether systemd calls *unit* active."""
    return host.run("systemctl", "is-active", unit, check=False).stdout == "active\n"


def pid(host: Host, unit: str) -> int:
    """The main process of *unit*, 0 without."""
    return int(host.show(unit, "MainPID"))


def plane(host: Host) -> str:
    """Everything of the data plane: links, addresses, routes, neighbours, FDB and rules."""
    looks = "ip -br link; ip -br -4 address; ip route; ip neigh show dev flannel.1; "
    looks += "bridge fdb show dev flannel.1; iptables-save | grep -E 'FLANNEL|KUBE'; "
    looks += "cat /run/docker_opts.env /run/flannel/subnet.env"
    # Counters of packets run on.
    return re.sub(r"\[\d+:\d+\]", "", host.run("sh", "-c", looks, check=False).stdout)


def answers(api: str, space: Namespace) -> bool:
    """Whether the API server in *space* says that it is well."""
    return "ok" in space.run(["curl", "-s", "--max-time", "2", f"{api}/healthz"], check=False)
