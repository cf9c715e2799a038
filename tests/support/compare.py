"""A real API server and the lab's, asked the same.

What may differ in their answers is named below, each with its reason; the rest has to be equal.
"""

import contextlib
import difflib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.etcd import EtcdCluster
from tests.support.kubernetes import ADMIN, SERVICE_RANGE, Apiservers, Caller, Kubectl
from tests.support.netns import Inside, eventually, fabric
from tests.support.services import CONTROL, Json

LAB = "172.29.0.250"

# Chosen by each server: by chance, by the clock, or by etcd.
OWN = {"uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "managedFields"}
# Fields of services newer than 1.20 or, there, behind an alpha gate.
NEWER = {"internalTrafficPolicy", "ipFamilies", "ipFamilyPolicy", "allocateLoadBalancerNodePorts"}
# What the admission of priorities sets, which the lab has not.
ADMITTED = {"preemptionPolicy"}
# Parts of a node that Go prints though nothing has set them.
UNSET = {"nodeInfo", "daemonEndpoints"}
# The label that namespaces have from 1.21 on.
NEWER_LABEL = {"kubernetes.io/metadata.name"}
LEFT_OUT = OWN | NEWER | ADMITTED | UNSET | NEWER_LABEL


def plain(value: Any, name: str = "") -> Any:
    """*value*, the field *name*, without what may differ."""
    if isinstance(value, dict):
        found = {key: plain(one, key) for key, one in value.items() if key not in LEFT_OUT}
        # Go prints null or "" for some fields that nothing has set, and leaves out an empty list.
        kept = {key: one for key, one in found.items() if one not in (None, "", [])}
        return {k: one for k, one in kept.items() if one != {} or k not in {"labels", "details"}}
    if isinstance(value, list):
        if name == "items":
            # 1.20 leaves out of the items what the list says of them.
            said = {"apiVersion", "kind"}
            value = [{k: v for k, v in one.items() if k not in said} for one in value]
        return [plain(one) for one in value]
    if name in {"nodePort", "healthCheckNodePort"}:
        return "chosen"
    return plain_text(value) if isinstance(value, str) else value


def plain_text(text: str) -> str:
    """*text* without addresses of services, times, and the URLs of the servers."""
    text = re.sub(r"https?://172\.29\.0\.\d+:\d+", "URL", text)
    text = re.sub(r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} [+-]\d{4}", "TIME", text)
    return re.sub(r"\b10\.0\.\d+\.\d+\b(?!/)", "10.0.X.X", text)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two servers, by HTTP and by kubectl."""

    call: Caller
    kubectl: Kubectl


@dataclass
class Pair:
    """Both servers, and the differences between their answers."""

    real: Side
    lab: Side
    _differences: list[str] = field(default_factory=list)

    def same(self, what: str, real: object, lab: object) -> None:
        """Note whether the answers to *what* are equal."""
        if real != lab:
            texts = [
                one if isinstance(one, str) else json.dumps(one, indent=1, sort_keys=True)
                for one in (real, lab)
            ]
            one, two = (text.splitlines() for text in texts)
            diff = difflib.unified_diff(one, two, "real", "lab", lineterm="", n=2)
            self._differences.append("\n".join([f"### {what}", *diff]))

    def agree(self) -> None:
        """AssertionError if there were differences."""
        assert not self._differences, "\n" + "\n\n".join(self._differences)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> None:
        """Compare status and document of a request that the real server does."""
        answers = [side.call(method, path, body, **headers) for side in (self.real, self.lab)]
        assert answers[0][0] < 300, (method, path, answers[0])
        self.same(f"{method} {path}", *map(shown, answers))

    def refuse(self, method: str, path: str, body: Any = None, **headers: str) -> None:
        """As ``ask``, for a request that it refuses."""
        answers = [side.call(method, path, body, **headers) for side in (self.real, self.lab)]
        assert answers[0][1].get("status") == "Failure", (method, path, answers[0])
        self.same(f"{method} {path}", *map(shown, answers))

    def kubectl(self, *words: str, stdin: str = "", good: bool = True) -> None:
        """Compare status, output and errors of kubectl; it succeeds if that is *good*."""
        results = [one.kubectl(*words, stdin=stdin) for one in (self.real, self.lab)]
        assert (results[0].returncode == 0) is good, (words, results[0])
        texts = [
            f"{one.returncode}\n{columns(one.stdout)}\n{columns(one.stderr)}" for one in results
        ]
        self.same(f"kubectl {' '.join(words)}", *texts)


def shown(answer: tuple[int, Json]) -> Json:
    """An exchange's status and document without what may differ."""
    status, document = answer
    return {"status": status, "document": plain(document)}


# What kubectl describes of a service by fields newer than 1.20.
NEWER_LINES = ("IP Family Policy:", "IP Families:", "Internal Traffic Policy:")


def columns(text: str) -> str:
    """kubectl's output without widths of columns, ages, and ports that were chosen."""
    text = re.sub(r"\b3[0-2]\d{3}(?=/(TCP|UDP))", "PORT", plain_text(text))
    text = re.sub(r"\b\d+(ms|s|m\d*s?)(?=\s|$)", "AGE", text)
    lines = [line for line in text.splitlines() if not line.startswith(NEWER_LINES)]
    return "\n".join(re.sub(r" +", " ", line).rstrip() for line in lines)


TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


def table(side: Side, path: str) -> Json:
    """The columns of a Table and its cells; ages and what is chosen left out."""
    status, document = side.call("GET", path, None, Accept=TABLE)
    assert status == 200, document
    return {
        "kind": document["kind"],
        "columns": [(one["name"], one["priority"]) for one in document["columnDefinitions"]],
        "rows": [[columns(str(cell)) for cell in row["cells"]] for row in document["rows"]],
    }


def faults(pair: Pair, method: str, path: str, body: Any, **headers: str) -> list[Json]:
    """What either server says is wrong: status, reason, and fields with the kind of fault."""
    found = []
    for side in (pair.real, pair.lab):
        status, document = side.call(method, path, body, **headers)
        causes = document.get("details", {}).get("causes", ())
        fields = sorted({(fault_field(one), one.get("reason", "")) for one in causes})
        about = {k: v for k, v in document.get("details", {}).items() if k not in {"causes", "uid"}}
        found.append({"status": status, "reason": document.get("reason"), "about": about,
                      "fields": fields})  # fmt: skip
    return found


def fault_field(cause: Json) -> str:
    """Which field a cause names; 1.20 spelled one unlike the API, and told of it as a whole."""
    name = str(cause.get("field", ""))
    return "spec.loadBalancerSourceRanges[0]" if name == "spec.LoadBalancerSourceRanges" else name


def events(side: Side, path: str, count: int) -> list[Json]:
    """The first *count* events of a watch; all of them for 0."""
    found: list[Json] = []
    with side.call.open("GET", path) as answer:
        assert answer.status == 200
        for line in answer:
            found.append(plain(json.loads(line)))
            if len(found) == count:
                break
    return found


CORE = "/api/v1/namespaces/shop"
APPS = "/apis/apps/v1/namespaces/shop"


def of(name: str, spec: Json | None = None, **more: Any) -> Json:
    """An object called *name*."""
    made: Json = {"metadata": {"name": name}, **more}
    return made if spec is None else made | {"spec": spec}


def service(name: str, *ports: Json, **spec: Any) -> Json:
    """A Service; port 80 unless told."""
    return of(name, {"ports": list(ports) or [{"port": 80}], **spec})


POD: Json = {
    "containers": [
        {
            "name": "web", "image": "nginx", "ports": [{"containerPort": 80}],
            "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "livenessProbe": {"httpGet": {"port": 80}},
            "resources": {"limits": {"cpu": "1", "memory": "64Mi"}},
        }
    ],
    "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "configMap": {"name": "c"}},
                {"name": "h", "hostPath": {"path": "/x"}}],
}  # fmt: skip
TEMPLATE: Json = {"metadata": {"labels": {"app": "web"}}, "spec": POD}


RC = json.dumps({
    "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "front"},
    "spec": {"replicas": 2, "selector": {"app": "front"}, "template": {
        "metadata": {"labels": {"app": "front"}},
        "spec": {"containers": [{"name": "c", "image": "i:1", "ports": [{"containerPort": 80}]}]},
    }},
})  # fmt: skip


@contextlib.contextmanager
def both_servers(folder: Path, binary: Path) -> Iterator[tuple[Side, Side]]:
    """The real server and the lab's, each with an etcd of its own and without controllers.

    kubectl works in the namespace shop, which is there.
    """
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(fabric())
        etcds = []
        for address in (CONTROL, LAB):
            made.bridge.run(f"ip addr add {address}/24 dev br0")
            cluster = EtcdCluster(
                folder / address, 1, addresses=[address], namespaces=[made.bridge.name],
                extra_args=["--unsafe-no-fsync"],
            )  # fmt: skip
            etcds.append(stack.enter_context(cluster).endpoints[0])
            for number in range(3):
                # Neither server can know of the first versions then.
                cluster.ctl("put", "/before", str(number))
        inside = Inside(made.bridge)
        stack.callback(inside.close)
        # The lab has no admission that adds tolerations and taints.
        plugins = "ServiceAccount,DefaultTolerationSeconds,TaintNodesByCondition"
        flags = (f"--disable-admission-plugins={plugins}",)
        servers = Apiservers(made.bridge, folder, etcds[0], binary, flags=flags)
        stack.callback(servers.close)
        real = Side(
            servers.servers[0].call,
            Kubectl(made.bridge, folder, servers.url, "--namespace=shop", f"--token={ADMIN}",
                    f"--certificate-authority={servers.authority.cert}"),
        )  # fmt: skip
        url = f"http://{LAB}:8080"
        lab = Side(Caller(inside, LAB, 8080), Kubectl(made.bridge, folder, url, "--namespace=shop"))
        argv = [
            "setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "lab.api",
            f"--etcd={etcds[1]}", f"--listen={LAB}:8080", f"--advertise-address={LAB}",
            f"--service-cluster-ip-range={SERVICE_RANGE}", "--no-controllers",
        ]  # fmt: skip
        with (folder / "lab.log").open("w") as log:
            made.bridge.start(argv, stdout=log, stderr=log)
        servers.start()
        eventually(lambda: _answers(lab.call), f"the lab's server: {folder}/lab.log", deadline=60)
        for side in (real, lab):
            assert side.call("POST", "/api/v1/namespaces", {"metadata": {"name": "shop"}})[0] == 201
        yield real, lab


def _answers(call: Caller) -> bool:
    with contextlib.suppress(OSError):
        return call.text("GET", "/readyz")[0] == 200
    return False
