"""A lab with a control plane, used as its operator and its users do: by commands and the API.

REST calls go through one ``kubectl proxy`` on a Unix socket: no program is started for each, and
whatever kubectl needs to reach the API server and to be let in is kubectl's business.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from lab import host as machine
from lab.probe import node_environment
from tests.support.services import Json

T = TypeVar("T")

UP_SECONDS = 600
"""Time for a lab to come up while other tests keep the machine busy."""
API_SECONDS = 60.0
BINARIES = "BARENODE_TEST_KUBE_BIN_DIR"
"""The variable that names the folder of another Kubernetes' commands to test with."""
DELETED = (
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/daemonsets",
    "/apis/apps/v1/statefulsets",
    "/apis/apps/v1/replicasets",
    "/apis/batch/v1/jobs",
    "/api/v1/replicationcontrollers",
    "/api/v1/pods",
    "/api/v1/services",
    "/api/v1/persistentvolumeclaims",
    "/api/v1/configmaps",
    "/api/v1/secrets",
)
"""What ``delete_all`` deletes: those that make others come first."""
KEPT = {("services", "kubernetes"), ("configmaps", "kube-root-ca.crt")}
TOKEN = "kubernetes.io/service-account-token"  # noqa: S105 - the type of a secret


class _UnixConnection(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=API_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class KubeLab:
    """A lab with a control plane, used as its operator and its users do.

    *plane* is ``kubernetes`` or ``embedded``; the latter has no masters. *extra* are further
    words for ``barenode lab up``. ``hosts`` are masters and workers, by the names of their nodes.
    """

    def __init__(
        self,
        name: str,
        *,
        masters: int = 1,
        workers: int = 2,
        plane: str = "kubernetes",
        extra: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._plane = ("--control-plane", plane, "--nodes", str(workers), *extra)
        if plane == "kubernetes":
            self._plane += ("--masters", str(masters))
            if binaries := os.environ.get(BINARIES):
                self._plane += ("--kube-bin-dir", binaries)
        self.masters: tuple[str, ...] = ()
        self.workers: tuple[str, ...] = ()
        self._members: dict[str, Json] = {}
        self._directory = Path(tempfile.mkdtemp(prefix="bnt-"))
        self._proxy: subprocess.Popen[bytes] | None = None

    @property
    def hosts(self) -> tuple[str, ...]:
        """All hosts: the masters, then the workers."""
        return self.masters + self.workers

    # --- the operator ---

    def up(self) -> None:
        """``barenode lab up``; raises AssertionError with the command's output."""
        self._barenode("up", *self._plane, timeout=UP_SECONDS)
        self._look()

    def down(self) -> None:
        """``barenode lab down``, whatever there is of the lab."""
        self._end_proxy()
        self._barenode("down", timeout=UP_SECONDS)
        shutil.rmtree(self._directory, ignore_errors=True)

    def kill(self, host: str) -> None:
        """Cut the power of *host*."""
        self._barenode("kill", after=(host,))
        self._members.clear()

    def start(self, host: str) -> None:
        """Boot *host* again and wait until it is ready."""
        self._barenode("start", after=(host,), timeout=UP_SECONDS)
        self._members.clear()

    def load(self, *images: str, hosts: Sequence[str] = ()) -> None:
        """Build these images of barenode's and load them into *hosts*, by default the workers."""

        def one(image: str) -> None:
            archive = self._directory / f"{image}.tar"
            build = [sys.executable, "-m", "lab", "image", "build", image, "-o", str(archive)]
            self._run(build, timeout=UP_SECONDS)
            words = (str(archive), *(hosts or self.workers))
            self._barenode("load", after=words, timeout=UP_SECONDS)
            archive.unlink()

        with ThreadPoolExecutor() as pool:
            list(pool.map(one, images))

    def status(self) -> Json:
        """``barenode lab status --json``."""
        found: Json = json.loads(self._barenode("status", "--json"))
        return found

    def _barenode(self, verb: str, *words: str, after: Sequence[str] = (), timeout: float = 120,
    ) -> str:  # fmt: skip
        argv = [sys.executable, "-m", "lab", "lab", verb, "--name", self.name, *words, *after]
        return self._run(argv, timeout=timeout)

    @staticmethod
    def _run(argv: Sequence[str], *, stdin: str = "", check: bool = True, timeout: float = 120,
    ) -> str:  # fmt: skip
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False,
            env=node_environment(dict(os.environ)),
        )  # fmt: skip
        said = f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert done.returncode == 0 or not check, said
        return done.stdout if check else done.stdout + done.stderr

    def _look(self) -> None:
        found = self.status()
        self._members = {one["name"]: one for one in (found["fabric"], *found["nodes"])}
        names = tuple(name for name in self._members if name != "fabric")
        self.masters = tuple(name for name in names if name.startswith("master"))
        self.workers = tuple(name for name in names if name not in self.masters)

    # --- the hosts ---

    def _member(self, host: str) -> Json:
        if not self._members:
            self._look()
        return self._members[host]

    def address(self, host: str) -> str:
        """The address of *host* (or of the ``fabric``) on the network between the hosts."""
        return str(self._member(host)["address"])

    def root(self, host: str) -> Path:
        """The file system of the living *host*."""
        return Path(f"/proc/{self._member(host)['pid']}/root")

    def network(self, host: str) -> Path:
        """The network namespace of *host* or of the ``fabric``, for tests.support.netns.enter."""
        return Path(f"/proc/{self._member(host)['pid']}/ns/net")

    def argv(self, host: str, *command: str) -> list[str]:
        """The command line that runs *command* in *host* or in the ``fabric``."""
        kinds = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        return ["nsenter", f"--target={self._member(host)['pid']}", *kinds, "--", *command]

    def exec(self, host: str, *command: str, check: bool = True, timeout: float = 120) -> str:
        """What *command* says in *host*; with ``check=False`` also when it fails, with stderr."""
        return self._run(self.argv(host, *command), check=check, timeout=timeout)

    @contextlib.contextmanager
    def popen(self, host: str, *command: str) -> Iterator[subprocess.Popen[str]]:
        """A command that runs in *host* until the end of the context; its output is a pipe."""
        # nsenter does not pass signals on to the command.
        argv = self.argv(host, "setpriv", "--pdeathsig", "KILL", "--", *command)
        with subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=node_environment(dict(os.environ)),
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.kill()

    def docker(self, host: str, *words: str) -> str:
        """What Docker's client says in *host*."""
        return self.exec(host, machine.docker_client(), *words).strip()

    def curl(self, host: str, url: str, *words: str) -> str:
        """What *url* answers to a request from *host*; "" when it does not or with an error."""
        limits = ("--connect-timeout", "3", "--max-time", "10")
        argv = self.argv(host, "curl", "--silent", "--fail", *limits, *words, url)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout if done.returncode == 0 else ""

    # --- the API ---

    def kubectl(self, *words: str, stdin: str = "", check: bool = True) -> str:
        """What ``barenode lab kubectl`` says; with ``check=False`` also when it fails."""
        argv = [sys.executable, "-m", "lab", "lab", "kubectl", "--name", self.name, "--", *words]
        # Longer than what commands here are told to wait themselves.
        return self._run(argv, stdin=stdin, check=check, timeout=360)

    def json(self, *words: str) -> Any:
        """What kubectl finds, as a value: ``json("get", "pods")``."""
        return json.loads(self.kubectl(*words, "--output=json"))

    def api(
        self, method: str, path: str, body: Json | None = None, **query: str
    ) -> tuple[int, Any]:
        """Status and answer of one request to the API server; the answer is text if not JSON.

        A PATCH is a merge patch. Raises OSError when there is no answer.
        """
        target = f"{path}?{urlencode(query)}" if query else path
        kind = "merge-patch+json" if method == "PATCH" else "json"
        connection = _UnixConnection(self._proxy_socket())
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, target, text, {"Content-Type": f"application/{kind}"})
            response = connection.getresponse()
            answer = response.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
        if "json" in response.headers.get("Content-Type", ""):
            return response.status, json.loads(answer)
        return response.status, answer

    def _proxy_socket(self) -> Path:
        path = self._directory / "api"
        if self._proxy is None or self._proxy.poll() is not None:
            path.unlink(missing_ok=True)
            self._proxy = subprocess.Popen(
                [sys.executable, "-m", "lab", "lab", "kubectl", "--name", self.name, "--",
                 "proxy", f"--unix-socket={path}"],
                stdout=subprocess.DEVNULL,
            )  # fmt: skip

            def listens() -> bool:
                # Between its name and its listening a socket refuses.
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(path))
                return True

            self.wait(listens, "kubectl proxy listens")
        return path

    def _end_proxy(self) -> None:
        if self._proxy is not None:
            self._proxy.kill()
            self._proxy.wait()
            self._proxy = None

    def apply(self, text_or_path: str | Path) -> None:
        """``kubectl apply`` of a manifest, or of a file or folder when it is a Path."""
        if isinstance(text_or_path, Path):
            self.kubectl("apply", "--filename", str(text_or_path.absolute()))
        else:
            self.kubectl("apply", "--filename=-", stdin=text_or_path)

    def delete_all(self, namespace: str = "default") -> None:
        """Delete what users have made in *namespace*, and wait until its pods are gone.

        Pods that are there by themselves get a second to end. What the control plane makes in
        each namespace stays.
        """
        for path in DELETED:
            group, kind = path.rsplit("/", 1)
            where = f"{group}/namespaces/{namespace}/{kind}"
            status, found = self.api("GET", where)
            for one in (found["items"] or ()) if status == 200 else ():
                name = one["metadata"]["name"]
                if (kind, name) not in KEPT and one.get("type") != TOKEN:
                    options: Json = {"propagationPolicy": "Background"}
                    options |= {"gracePeriodSeconds": 1} if kind == "pods" else {}
                    self.api("DELETE", f"{where}/{name}", options)
        self.wait(
            lambda: not self.items(f"/api/v1/namespaces/{namespace}/pods"),
            f"the pods of {namespace} are gone",
        )

    def items(self, path: str, selector: str = "") -> list[Json]:
        """The objects of the list at *path*; raises AssertionError when it is refused."""
        status, found = self.api("GET", path, labelSelector=selector)
        assert status == 200, found
        listed: list[Json] = found["items"] or []
        return listed

    # --- waiting ---

    @staticmethod
    def wait(condition: Callable[[], T], what: str, within: float = 120) -> T:
        """The value of *condition* once it is true; polls for *within* seconds.

        A call that fails (OSError, AssertionError) counts as not yet; what came last is told.
        """
        deadline = time.monotonic() + within
        last: object = None
        while True:
            try:
                value = condition()
            except (OSError, AssertionError) as error:
                last = error
            else:
                if value:
                    return value
                last = value
            assert time.monotonic() < deadline, f"not within {within:g} s: {what}: {last}"
            time.sleep(0.05)

    def ready_pods(self, selector: str, count: int, namespace: str = "default") -> list[Json]:
        """The pods of *selector* once exactly *count* are there and all of them are ready."""
        path = f"/api/v1/namespaces/{namespace}/pods"
        last: list[Json] = []

        def ready() -> bool:
            last[:] = self.items(path, selector)
            # A pod that is ending may be ready, but is on its way out.
            staying = [pod for pod in last if "deletionTimestamp" not in pod["metadata"]]
            return len(staying) == len(last) == count and all(map(is_ready, last))

        try:
            self.wait(ready, f"{count} pods of {selector} are ready")
        except AssertionError as error:
            states = {pod["metadata"]["name"]: pod["status"] for pod in last}
            raise AssertionError(f"{error}\n{json.dumps(states, indent=1)}") from None
        return last


def is_ready(thing: Json) -> bool:
    """Whether a pod or node has the condition Ready."""
    conditions = thing.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
