"""Cases of Kubernetes' conformance suite, in this project's own words and code.

A case is known by its codename in Kubernetes 1.20's ``test/conformance/testdata/conformance.yaml``,
which also describes what has to hold. A test that shows it is marked with that name:

    @case(CODENAME, needs=[objects]) -> one Space for each module, made of all that its cases need

So the pods of a module start together, and each test looks at its own. docs/conformance.md lists
the cases; a test holds it to what is marked. ``python -m tests.support.conformance`` prints its
tables.
"""

import contextlib
import functools
import importlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from tests.support.kubelab import KubeLab, is_ready
from tests.support.realnode import container
from tests.support.services import Json

F = TypeVar("F", bound=Callable[..., object])

MODULES = tuple(sorted((Path(__file__).parents[1] / "e2e").glob("test_conformance_*.py")))
_PREFIX = "tests.e2e.test_conformance_"
_CORE = (
    "Pod", "ConfigMap", "Secret", "Service", "Endpoints", "ServiceAccount", "Event",
    "ReplicationController", "ResourceQuota",
)  # fmt: skip
_GROUPS = {
    "ReplicaSet": "apps/v1", "Deployment": "apps/v1", "DaemonSet": "apps/v1", "Job": "batch/v1",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One case: its name in Kubernetes' suite, the test that shows it, and what the test needs.

    ``fails`` is why the case does not hold; empty if it does.
    """

    codename: str
    topic: str
    test: str
    needs: tuple[Json, ...]
    fails: str = ""

    @property
    def state(self) -> str:
        """``pass`` or ``fail``."""
        return "fail" if self.fails else "pass"


CASES: dict[str, Case] = {}
"""The cases of all modules that were imported, by codename."""


def case(*codenames: str, needs: Sequence[Json] = (), fails: str = "") -> Callable[[F], F]:
    """Mark a test as showing these cases, or, with *fails*, what there is instead of them."""

    def mark(test: F) -> F:
        topic = test.__module__.removeprefix(_PREFIX)
        for at, name in enumerate(codenames):
            assert name not in CASES or CASES[name].test == test.__name__, f"twice: {name}"
            wanted = () if at else tuple(needs)
            CASES[name] = Case(name, topic, test.__name__, wanted, fails)
        return test

    return mark


def every_case() -> dict[str, list[Case]]:
    """The cases of all modules, by topic."""
    topics = [path.stem.removeprefix("test_conformance_") for path in MODULES]
    for topic in topics:
        importlib.import_module(_PREFIX + topic)
    return {topic: [one for one in CASES.values() if one.topic == topic] for topic in topics}


def table(cases: Sequence[Case]) -> str:
    """The cases as a table of docs/conformance.md, with the reasons of those that fail below it."""
    rows = [f"| `{one.codename}` | {one.state} | `{one.test}` |" for one in cases]
    reasons = [f"- `{one.codename}`: {one.fails}" for one in cases if one.fails]
    shown = "\n".join(("| case | state | shown by |", "|---|---|---|", *rows))
    return shown + ("\n\n" + "\n".join(reasons) if reasons else "")


# --- objects ---


def pod(name: str, *containers: Json, labels: Json | None = None, annotations: Json | None = None,
        **spec: Any) -> Json:  # fmt: skip
    """A pod that goes to any node and ends at once when it is deleted."""
    metadata = {"name": name, "labels": labels or {}, "annotations": annotations or {}}
    given = {"terminationGracePeriodSeconds": 1, "containers": list(containers) or [container()]}
    return {"kind": "Pod", "metadata": metadata, "spec": {**given, **spec}}


def once(name: str, script: str, *, volumes: Sequence[Json] = (), spec: Json | None = None,
         labels: Json | None = None, annotations: Json | None = None, **more: Any
) -> Json:  # fmt: skip
    """A pod with one container that runs *script* once; *more* are fields of the container."""
    only = container(script, **more)
    return pod(name, only, labels=labels, annotations=annotations, restartPolicy="Never",
               volumes=list(volumes), **(spec or {}))  # fmt: skip


def config_map(name: str, **data: str) -> Json:
    """A ConfigMap."""
    return {"kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def secret(name: str, **data: str) -> Json:
    """A Secret."""
    return {"kind": "Secret", "metadata": {"name": name}, "stringData": data}


def mount(name: str, at: str, **more: Any) -> Json:
    """A mount of a volume."""
    return {"name": name, "mountPath": at, **more}


def only(found: Json) -> Json:
    """The status of a pod's only container, {} before there is one."""
    listed = found.get("status", {}).get("containerStatuses") or [{}]
    assert len(listed) == 1, found["metadata"]["name"]
    return dict(listed[0])


def url(namespace: str, kind: str, name: str = "") -> str:
    """The path of a collection or of an object in the API."""
    root = f"/apis/{_GROUPS[kind]}" if kind in _GROUPS else "/api/v1"
    plural = {"Endpoints": "endpoints"}.get(kind, f"{kind.lower()}s")
    return f"{root}/namespaces/{namespace}/{plural}{'/' if name else ''}{name}"


class Space:
    """A namespace with what the cases of one module need, in a lab."""

    def __init__(self, kube: KubeLab, namespace: str) -> None:
        self.kube = kube
        self.namespace = namespace
        self._ended: dict[str, Json] = {}

    # --- objects ---

    def create(self, *objects: Json) -> None:
        """Create objects."""
        for one in objects:
            version = _GROUPS.get(one["kind"], "v1")
            self._do("POST", url(self.namespace, one["kind"]), {"apiVersion": version, **one})

    def get(self, kind: str, name: str) -> Json:
        """An object, {} if there is none."""
        status, found = self.kube.api("GET", url(self.namespace, kind, name))
        assert status in {200, 404}, found
        return dict(found) if status == 200 else {}

    def find(self, kind: str, **query: str) -> list[Json]:
        """The objects of a kind, by labelSelector or fieldSelector."""
        found = self._do("GET", url(self.namespace, kind), None, **query)
        return list(found["items"] or ())

    def patch(self, kind: str, name: str, body: Json) -> Json:
        """Change an object by a merge patch."""
        return self._do("PATCH", url(self.namespace, kind, name), body)

    def delete(self, kind: str, name: str) -> None:
        """Ask for an object's deletion; does not wait."""
        self._do("DELETE", url(self.namespace, kind, name))

    def delete_with_pods(self, kind: str, name: str) -> None:
        """Ask for the deletion of a controller and its pods; does not wait."""
        self._do("DELETE", url(self.namespace, kind, name), propagationPolicy="Background")

    def delete_all(self, kind: str, selector: str) -> None:
        """Ask for the deletion of all that have these labels; does not wait."""
        self._do("DELETE", url(self.namespace, kind), None, labelSelector=selector)

    def _do(self, method: str, path: str, body: Json | None = None, **query: str) -> Json:
        status, found = self.kube.api(method, path, body, **query)
        assert status < 300, f"{method} {path}: {found}"
        return dict(found)

    def changes(self, name: str, since: str) -> list[tuple[str, Json]]:
        """What has happened to the pod after the resource version *since*: (type, pod) in order."""
        query = {"watch": "1", "resourceVersion": since, "timeoutSeconds": "1",
                 "fieldSelector": f"metadata.name={name}"}  # fmt: skip
        target = f"{url(self.namespace, 'Pod')}?{urlencode(query)}"
        lines = self.kube.kubectl("get", "--raw", target).splitlines()
        return [(one["type"], one["object"]) for one in map(json.loads, lines)]

    # --- pods ---

    def until(self, name: str, holds: Callable[[Json], Any], what: str) -> Json:
        """The pod once *holds* says so of it."""
        last: Json = {}

        def look() -> bool:
            last.clear()
            last.update(self.get("Pod", name))
            return bool(last) and bool(holds(last))

        try:
            self.kube.wait(look, f"{name}: {what}")
        except AssertionError as error:
            told = self.find("Event", fieldSelector=f"involvedObject.name={name}")
            events = "\n".join(one["message"] for one in told)
            status = json.dumps(last.get("status"), indent=1)
            raise AssertionError(f"{error}\n{status}\n{events}") from None
        return last

    def ended(self, name: str) -> Json:
        """The pod once it has succeeded or failed."""
        if name not in self._ended:
            # What has ended stays so: one look tells of all that have.
            self._ended |= {one["metadata"]["name"]: one for one in self.find("Pod") if _over(one)}
        return self._ended.get(name) or self.until(name, _over, "ends")

    def ready(self, name: str) -> Json:
        """The pod once it is ready."""
        return self.until(name, is_ready, "is ready")

    def gone(self, name: str) -> None:
        """Wait until there is no such pod."""
        self.kube.wait(lambda: not self.get("Pod", name), f"{name} is gone")

    def log(self, name: str, container: str = "", **query: str) -> str:
        """A log. Raises AssertionError when there is none."""
        query |= {"container": container} if container else {}
        path = url(self.namespace, "Pod", name) + "/log"
        status, text = self.kube.api("GET", path, None, **query)
        assert status == 200, text
        # The API sends logs as text; a line that is a JSON document stays one for the proxy.
        return text if isinstance(text, str) else json.dumps(text)

    def output(self, name: str, container: str = "") -> str:
        """What a container has written, once its pod has succeeded."""
        found = self.ended(name)
        text = self.log(name, container)
        assert found["status"]["phase"] == "Succeeded", f"{name}: {text}{found['status']}"
        return text

    def inside(self, name: str, *command: str, container: str = "c", check: bool = True) -> str:
        """What a command says in a container, whose name it is given by Docker on its node."""
        found = self.get("Pod", name)
        chosen = [c for c in found["status"]["containerStatuses"] if c["name"] == container]
        identity = chosen[0]["containerID"].removeprefix("docker://")
        return self.kube.exec(
            found["spec"]["nodeName"], "docker", "exec", identity, *command, check=check
        )

    def shell(self, name: str, script: str, container: str = "c") -> str:
        """What a shell script says in a container, "" when it fails."""
        with contextlib.suppress(AssertionError):
            return self.inside(name, "sh", "-c", script, container=container)
        return ""

    def fetch(self, name: str, address: str) -> str:
        """What a web server answers to a pod, "" when it does not."""
        return self.shell(name, f"wget -q -O - {shlex.quote(f'http://{address}')} 2>/dev/null")


def _over(found: Json) -> bool:
    return found["status"].get("phase") in {"Succeeded", "Failed"}


def _made(space: Space, one: Json) -> bool:
    """Create *one*; until a new namespace's account has its token, pods are refused."""
    space.create(one)
    return True


@contextlib.contextmanager
def space_of(kube: KubeLab, module: str) -> Iterator[Space]:
    """A Space with all that the cases of *module* need; removed with the context."""
    topic = module.removeprefix(_PREFIX)
    made = Space(kube, f"conformance-{topic}")
    namespaces = "/api/v1/namespaces"
    status, found = kube.api("POST", namespaces, {
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": made.namespace},
    })  # fmt: skip
    assert status < 300, found
    try:
        kube.wait(lambda: made.get("ServiceAccount", "default"), "the namespace has its account")
        needs = [one for each in CASES.values() if each.topic == topic for one in each.needs]
        # A pod that is started before its Service would not know of it.
        for one in sorted(needs, key=lambda obj: obj["kind"] in {"Pod", *_GROUPS}):
            kube.wait(functools.partial(_made, made, one), f"the API takes {one['metadata']}")
        yield made
    finally:
        kube.delete_all(made.namespace)
        kube.api("DELETE", f"{namespaces}/{made.namespace}")


if __name__ == "__main__":
    for found_topic, found_cases in every_case().items():
        sys.stdout.write(f"## {found_topic}\n\n{table(found_cases)}\n\n")
