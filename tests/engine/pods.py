"""Pods of one lab as a test sees them: at the API server, in Docker and inside the container.

Both are spoken to over HTTP, without kubectl and docker: a look takes milliseconds.
"""

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from signal import SIGTERM
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from lab.model import LabSpec
from lab.store import Paths, Store
from nodeagent.docker.frames import Demux
from tests.engine.podviews import (
    IMAGE,
    Raw,
    attempt_of,
    condition,
    shell,
    sleeper,
    state,
    status_of,
)  # fmt: skip
from tests.engine.wire import ApiError, barenode, request, tcp, unix
from tests.support.netns import eventually

__all__ = [
    "DEADLINE", "IMAGE", "LOOK", "NODE", "SANDBOX", "ApiError", "PodWorld", "Raw", "attempt_of",
    "barenode", "condition", "lab", "shell", "sleeper", "state", "status_of",
]  # fmt: skip

Predicate = Callable[[Raw], Any]

NODE = "node1"
DEADLINE = 60.0
"""Seconds within which anything that takes one must have happened on a busy machine."""
LOOK = 0.05
"""Seconds between two looks."""
SANDBOX = "POD"


@dataclass
class PodWorld:
    """The lab *lab* and the pods of its node1; what a test makes is removed by ``clean``."""

    lab: str
    namespace: str = "default"
    _uids: dict[str, str] = field(default_factory=dict)
    _objects: list[str] = field(default_factory=list)
    _manifests: set[str] = field(default_factory=set)

    # --- the lab ---

    @property
    def spec(self) -> LabSpec:
        """The lab as it is written down now."""
        found = Store(Paths.standard(os.environ)).load(self.lab)
        assert found is not None, f"there is no lab {self.lab}"
        return found

    @property
    def pid(self) -> int:
        """The node's pid 1, as this machine numbers it."""
        return self.spec.processes[NODE].pid

    @property
    def root(self) -> Path:
        """The node's files."""
        return Path(f"/proc/{self.pid}/root")

    def node_run(self, *argv: str, check: bool = True, stdin: str = "") -> str:
        """Run a command on the node; its output. AssertionError when it fails and *check*."""
        return self.node_run_bytes(*argv, check=check, stdin=stdin).decode()

    def node_run_bytes(self, *argv: str, check: bool = True, stdin: str = "") -> bytes:
        """As ``node_run``, for output that is no text."""
        kinds = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
        # /usr/local/bin may have a docker that is not the node's.
        path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
        done = subprocess.run(
            ["nsenter", f"--target={self.pid}", *kinds, "--", "env", path, *argv],
            input=stdin.encode(), capture_output=True, check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            said = (done.stderr or done.stdout).decode(errors="replace")
            raise AssertionError(f"{' '.join(argv)}: {said}")
        return done.stdout

    def agent(self) -> Raw:
        """nodeagent's status document, {} while it does not answer."""
        make = partial(unix, str(self.root / "run/nodeagent/nodeagent.sock"))
        try:
            with request(make, "GET", "/status") as answer:
                found: Raw = json.loads(answer.read())
        except (OSError, HTTPException, ApiError):
            return {}
        return found

    def restart_agent(self, *, kill: bool = False) -> None:
        """End nodeagent, by SIGKILL where *kill*; wait until its supervisor's next one is ready."""
        before = self.agent()["pid"]
        self.node_run("kill", "-KILL" if kill else "-TERM", str(before))

        def another() -> bool:
            now = self.agent()
            return bool(now) and now["pid"] != before and bool(now["ready"])

        eventually(another, "another nodeagent is ready", deadline=DEADLINE, interval=LOOK)

    def manifest(self, name: str, text: str) -> None:
        """Write (whole, by renaming) the file *name* into the folder of static manifests."""
        folder = self.root / "etc/kubernetes/manifests"
        folder.mkdir(parents=True, exist_ok=True)
        half = folder / f".{name}.half"
        half.write_text(text)
        half.rename(folder / name)
        self._manifests.add(name)

    def remove_manifest(self, name: str) -> None:
        """Remove that file."""
        (self.root / "etc/kubernetes/manifests" / name).unlink(missing_ok=True)
        self._manifests.discard(name)

    # --- the API server ---

    def api(self, method: str, path: str, body: Raw | None = None, **query: object) -> Raw:
        """The object that the API server answers; raises ApiError. A PATCH is a merge."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        target = f"{path}?{urlencode(query)}" if query else path
        with request(self._server(), method, target, body, kind) as answer:
            found: Raw = json.loads(answer.read())
        return found

    def _server(self) -> Callable[[], socket.socket]:
        spec = self.spec
        return partial(tcp, spec.fabric.netns, spec.fabric.address, 8080)

    def path(self, name: str = "") -> str:
        """The path of a pod, or of all of them."""
        return f"/api/v1/namespaces/{self.namespace}/pods" + (f"/{name}" if name else "")

    def create(self, name: str, spec: Raw | Sequence[Raw], **meta: Any) -> Raw:
        """Make a pod out of its spec, or of its containers; *meta* are fields of its metadata.

        It is bound to node1 unless the spec says otherwise, and containers without image get
        IMAGE.
        """
        whole = {"nodeName": NODE, **(spec if isinstance(spec, Mapping) else {"containers": spec})}
        for group in ("initContainers", "containers"):
            if group in whole:
                whole[group] = [{"image": IMAGE, **one} for one in whole[group]]
        document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **meta}}
        made = self.api("POST", self.path(), {**document, "spec": whole})
        self._uids[name] = made["metadata"]["uid"]
        return made

    def put(self, collection: str, document: Raw) -> Raw:
        """Make an object, or replace it; *collection* is its URL path without the name."""
        path = f"{collection}/{document['metadata']['name']}"
        try:
            made = self.api("POST", collection, document)
        except ApiError as error:
            if error.status != 409:
                raise
            made = self.api("PUT", path, document)
        if path not in self._objects:
            self._objects.append(path)
        return made

    def config_map(self, name: str, data: Mapping[str, str]) -> Raw:
        """Make or replace a ConfigMap."""
        document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
        where = f"/api/v1/namespaces/{self.namespace}/configmaps"
        return self.put(where, {**document, "data": dict(data)})

    def secret(self, name: str, data: Mapping[str, str], kind: str = "Opaque") -> Raw:
        """Make or replace a Secret out of plain text."""
        document = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}
        where = f"/api/v1/namespaces/{self.namespace}/secrets"
        return self.put(where, {**document, "type": kind, "stringData": dict(data)})

    def get(self, name: str) -> Raw:
        """The pod's object; raises ApiError with status 404 when there is none."""
        return self.api("GET", self.path(name))

    def find(self, name: str) -> Raw | None:
        """The pod's object, or None."""
        try:
            return self.get(name)
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    def wait(self, name: str, holds: Predicate, what: str, deadline: float = DEADLINE) -> Raw:
        """The pod's object once *holds* is true of it; AssertionError shows how it is instead."""
        last: list[Raw | None] = [None]

        def look() -> Raw | None:
            last[0] = self.find(name)
            return last[0] if last[0] is not None and holds(last[0]) else None

        try:
            found = eventually(look, f"{name}: {what}", deadline=deadline, interval=LOOK)
        except AssertionError as error:
            status = json.dumps((last[0] or {}).get("status"), indent=1)
            raise AssertionError(f"{error}\nstatus: {status}") from error
        assert found is not None
        return found

    def running(self, name: str) -> Raw:
        """The pod once all of its containers run."""

        def holds(pod: Raw) -> bool:
            found = pod["status"].get("containerStatuses", [])
            return (
                pod["status"].get("phase") == "Running"
                and len(found) == len(pod["spec"]["containers"])
                and all("running" in one["state"] for one in found)
            )

        return self.wait(name, holds, "all of its containers run")

    def ready(self, name: str) -> Raw:
        """The pod once it is Ready."""
        return self.wait(name, lambda pod: condition(pod, "Ready") == "True", "is Ready")

    def phase(self, name: str, phase: str) -> Raw:
        """The pod once it has that phase."""
        return self.wait(name, lambda pod: pod["status"].get("phase") == phase, f"is {phase}")

    def waiting(self, name: str, *reasons: str, container: str = "main") -> Raw:
        """The pod once that container waits for one of *reasons*."""

        def holds(pod: Raw) -> bool:
            return state(pod, container).get("waiting", {}).get("reason") in reasons

        return self.wait(name, holds, f"container {container} waits for {' or '.join(reasons)}")

    def restarted(self, name: str, count: int, container: str = "main") -> Raw:
        """The pod once that container runs with this restartCount."""

        def holds(pod: Raw) -> bool:
            one = status_of(pod, container)
            return one.get("restartCount") == count and "running" in one["state"]

        return self.wait(name, holds, f"container {container} runs with restartCount {count}")

    def delete(self, name: str, grace: int | None = 0) -> None:
        """Ask for the pod's deletion; with *grace* None by the pod's own time."""
        query = "" if grace is None else f"?gracePeriodSeconds={grace}"
        self.api("DELETE", self.path(name) + query)

    def gone(self, name: str) -> None:
        """Wait until the pod's object is gone, and every container that was of this name."""
        eventually(
            lambda: self.find(name) is None, f"the object of {name} is gone",
            deadline=DEADLINE, interval=LOOK,
        )  # fmt: skip
        eventually(
            lambda: not self.containers(name), f"the containers of {name} are gone",
            deadline=DEADLINE, interval=LOOK,
        )  # fmt: skip

    def events(self, name: str) -> list[Raw]:
        """The events about the pod that has this name now, or had it last."""
        fields = f"involvedObject.name={name}"
        if name in self._uids:
            fields += f",involvedObject.uid={self._uids[name]}"
        where = f"/api/v1/namespaces/{self.namespace}/events"
        found: list[Raw] = self.api("GET", where, fieldSelector=fields)["items"]
        return found

    def event(self, name: str, reason: str, text: str = "") -> Raw:
        """The first event about the pod with *reason* and *text* in its message; it is awaited."""

        def look() -> list[Raw]:
            return [e for e in self.events(name) if e["reason"] == reason and text in e["message"]]

        return eventually(look, f"an event {reason} {text!r}", deadline=DEADLINE, interval=LOOK)[0]

    def log(self, name: str, **query: object) -> str:
        """The pod's log through the API server; *query* are fields of PodLogOptions."""
        with self.follow(name, **query) as answer:
            return answer.read().decode()

    @contextlib.contextmanager
    def follow(self, name: str, **query: object) -> Iterator[HTTPResponse]:
        """The answer that brings the pod's log."""
        text = {k: str(v).lower() if isinstance(v, bool) else v for k, v in query.items()}
        with request(self._server(), "GET", f"{self.path(name)}/log?{urlencode(text)}") as answer:
            yield answer

    # --- Docker ---

    def docker(self, method: str, path: str, body: Raw | None = None) -> Any:
        """What the node's Docker answers, decoded; None for nothing. Raises ApiError."""
        with request(self._engine(), method, path, body) as answer:
            data = answer.read()
        return json.loads(data) if data else None

    def _engine(self) -> Callable[[], socket.socket]:
        return partial(unix, str(self.root / "run/docker.sock"))

    def containers(self, name: str, container: str = "") -> list[Raw]:
        """Docker's list entries of the pod's containers, dead ones and the sandbox too.

        The one with the highest attempt comes first.
        """
        labels = [f"io.kubernetes.pod.name={name}",
                  f"io.kubernetes.pod.namespace={self.namespace}"]  # fmt: skip
        if container:
            labels.append(f"io.kubernetes.container.name={container}")
        query = quote(json.dumps({"label": labels}))
        found: list[Raw] = self.docker("GET", f"/containers/json?all=1&filters={query}")
        return sorted(found, key=attempt_of, reverse=True)

    def container(self, name: str, container: str = "main") -> Raw:
        """Docker's inspect document of the newest instance; SANDBOX is the pause container."""
        found = self.containers(name, container)
        assert found, f"Docker has no container {container} of pod {name}"
        document: Raw = self.docker("GET", f"/containers/{found[0]['Id']}/json")
        return document

    def exec(self, name: str, container: str, *argv: str, check: bool = True) -> str:
        """Run a command in a container; its output. AssertionError when it fails and *check*."""
        key = self.containers(name, container)[0]["Id"]
        wish = {"Cmd": list(argv), "AttachStdout": True, "AttachStderr": True}
        run = self.docker("POST", f"/containers/{key}/exec", wish)["Id"]
        start = {"Detach": False, "Tty": False}
        with request(self._engine(), "POST", f"/exec/{run}/start", start) as answer:
            pieces = Demux().feed(answer.read())
        out = b"".join(data for stream, data in pieces if stream == 1).decode()
        if not check:
            return out
        # The output may end a moment before the command does.
        eventually(
            lambda: not self.docker("GET", f"/exec/{run}/json")["Running"], f"the end of {argv}",
            deadline=DEADLINE,
        )  # fmt: skip
        if code := self.docker("GET", f"/exec/{run}/json")["ExitCode"]:
            err = b"".join(data for stream, data in pieces if stream == 2).decode()
            raise AssertionError(f"{name}/{container}: {' '.join(argv)}: exit {code}: {out}{err}")
        return out

    def obeys(self, name: str, container: str = "main") -> None:
        """Wait until the container's first process traps SIGTERM: sent before, it is lost."""

        def traps() -> int:
            text = self.exec(name, container, "grep", "SigCgt", "/proc/1/status")
            return int(text.split()[1], 16) >> (SIGTERM - 1) & 1

        eventually(traps, f"{name} traps SIGTERM", deadline=DEADLINE, interval=LOOK)

    # --- the end of a test ---

    def clean(self) -> None:
        """Remove all that was made here, and wait until it is gone."""
        for name in tuple(self._manifests):
            self.remove_manifest(name)
        found = self.api("GET", self.path())["items"]
        present = {pod["metadata"]["name"]: pod for pod in found}
        for name, pod in present.items():
            # Mirror pods go with their manifests.
            if "kubernetes.io/config.mirror" not in pod["metadata"].get("annotations", {}):
                # By force a pod goes before its containers do, and they have its own time then.
                here = pod["spec"].get("nodeName") == NODE
                with contextlib.suppress(ApiError):
                    self.delete(name, grace=1 if here else 0)
        names = {*present, *self._uids}
        paths = tuple(self._objects)
        # What one test cannot clean up must not be waited for after every other.
        self._uids.clear()
        self._objects.clear()
        try:
            for name in names:
                self.gone(name)
        except AssertionError:
            for name in names:
                for one in self.containers(name):
                    with contextlib.suppress(ApiError):
                        self.docker("DELETE", f"/containers/{one['Id']}?force=1")
            raise
        finally:
            for path in paths:
                with contextlib.suppress(ApiError):
                    self.api("DELETE", path)


@contextlib.contextmanager
def lab(name: str, *options: str, settings: str = "") -> Iterator[PodWorld]:
    """A lab of one node for the time of the context; *settings* become nodeagent.toml."""
    barenode("lab", "down", "--name", name, check=False)
    try:
        barenode("lab", "up", "--name", name, "--nodes", "1", *options)
        world = PodWorld(name)
        if settings:
            folder = world.root / "etc/nodeagent"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "nodeagent.toml").write_text(settings)
            world.restart_agent()
        yield world
    finally:
        barenode("lab", "down", "--name", name)


@contextlib.contextmanager
def lab_with_agent(name: str, program: Path, text: str, settings: str) -> Iterator[PodWorld]:
    """A ``lab`` whose host runs *program*, made of *text*, in nodeagent's place."""
    program.write_text(text)
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BARENODE_NODEAGENT", str(program))
        with lab(name, settings=settings) as made:
            yield made
