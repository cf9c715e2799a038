"""Real kube-apiservers for tests: TLS, tokens, certificates, RBAC, several on one etcd.

They are Kubernetes 1.20's, built from Debian's source by lab/assets/kubernetes.sh. What they keep
in etcd is JSON, so that a test can write there what no API server would accept.
"""

import contextlib
import http.client
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.certs import Authority, Pair
from tests.support.netns import Fabric, Inside, Namespace, eventually
from tests.support.services import CONTROL, Api, Json, World, port, slice_of
from tests.support.talk import Host

ROOT = Path(__file__).parents[2]
SECOND_SERVER = "172.29.0.252"
PORT = 6443
SERVICE_RANGE = "10.0.0.0/16"

ADMIN, NOBODY = "admin-token", "nobody-token"
PROXY_USER = "system:kube-proxy"
"""The user to whom every cluster lets its kube-proxy list and watch services and endpoints."""

SLICES = "/apis/discovery.k8s.io/v1beta1/namespaces/default/endpointslices"
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
SECRETS = "/api/v1/namespaces/default/secrets"
BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"


def built(config: pytest.Config) -> Path:
    """The kube-apiserver. Where there is none yet it is built, telling the terminal of progress."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        done = subprocess.run(
            [str(ROOT / "lab/assets/kubernetes.sh"), "kube-apiserver"],
            check=False, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 0, "lab/assets/kubernetes.sh built none: see what it said"
    return Path(done.stdout.strip()) / "kube-apiserver"


class Caller:
    """Requests from inside *space* to the API server at *address*, with *token*."""

    def __init__(
        self,
        inside: Inside,
        address: str,
        port: int,
        *,
        context: ssl.SSLContext | None = None,
        token: str = "",
    ) -> None:
        self._inside = inside
        self.address = address
        self.port = port
        self._context = context
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    @contextlib.contextmanager
    def open(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        """An exchange whose answer is read by the caller. Raises OSError."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=20)
        made = self._inside.call(socket.socket)
        made.settimeout(20)
        connection.sock = made
        try:
            made.connect((self.address, self.port))
            if self._context is not None:
                connection.sock = self._context.wrap_socket(made, server_hostname=self.address)
            text = None if body is None else json.dumps(body)
            sent = {"Content-Type": "application/json", **self._headers}
            sent |= {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, text, sent)
            with connection.getresponse() as answer:
                yield answer
        finally:
            connection.close()

    def text(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, str]:
        """Status and body of one exchange. Raises OSError."""
        with self.open(method, path, body, **headers) as answer:
            return answer.status, answer.read().decode()

    def __call__(self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, Json]:  # fmt: skip
        """Status and document of one exchange. Raises OSError."""
        status, text = self.text(method, path, body, **headers)
        return status, json.loads(text or "{}")


class Apiserver:
    """One kube-apiserver in *space*, at *address*; *flags* are those that all of them share."""

    def __init__(
        self, space: Namespace, address: str, argv: Sequence[str], log: Path, caller: Caller
    ) -> None:
        self.url = f"https://{address}:{PORT}"
        self.call = caller
        self._space = space
        self._argv = [*argv, f"--bind-address={address}", f"--advertise-address={address}"]
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    @property
    def runs(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; does not wait."""
        with self._log.open("a") as log:
            self._process = self._space.start(
                ["setpriv", "--pdeathsig", "KILL", "--", *self._argv], stdout=log, stderr=log
            )

    def wait_ready(self) -> None:
        """Wait until all of it works."""
        eventually(self._is_ready, f"a kube-apiserver: {self._log}", deadline=120, interval=0.1)

    def _is_ready(self) -> bool:
        assert self.runs, self._log.read_text(errors="replace")[-2000:]
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.call.text("GET", "/readyz")[0] == 200
        return False

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Apiservers(Api):
    """Apiservers on one etcd; requests are done, as the administrator, by the first that runs.

    *flags* come on top of the usual ones, and in place of those of the same name.
    """

    def __init__(
        self,
        space: Namespace,
        directory: Path,
        etcd: str,
        binary: Path,
        *,
        addresses: Sequence[str] = (CONTROL,),
        flags: Sequence[str] = (),
    ) -> None:
        super().__init__(space, directory, etcd, PORT)
        self._directory = directory
        self.authority = Authority(directory / "certs")
        names = ",".join(f"IP:{one}" for one in addresses)
        self._pair = self.authority.issue("apiserver", sans=names)
        self.context = ssl.create_default_context(cafile=self.authority.cert)
        given = {flag.partition("=")[0] for flag in flags}
        usual = [one for one in self._flags(etcd) if one.partition("=")[0] not in given]
        argv = [str(binary), *usual, *flags]
        self.servers = [
            Apiserver(space, address, argv, directory / f"apiserver-{address}.log",
                      Caller(self._inside, address, PORT, context=self.context, token=ADMIN))
            for address in addresses
        ]  # fmt: skip
        self.url = ",".join(one.url for one in self.servers)

    def _flags(self, etcd: str) -> list[str]:
        tokens = self._directory / "tokens.csv"
        tokens.write_text(f"{ADMIN},admin,1,system:masters\n{NOBODY},nobody,2\n")
        issuer = self.authority.issue("accounts")
        return [
            f"--etcd-servers={etcd}",
            "--storage-media-type=application/json",
            # Else history is dropped every five minutes, whenever that is.
            "--etcd-compaction-interval=0",
            f"--secure-port={PORT}",
            f"--tls-cert-file={self._pair.cert}",
            f"--tls-private-key-file={self._pair.key}",
            f"--client-ca-file={self.authority.cert}",
            f"--token-auth-file={tokens}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={issuer.key}",
            f"--service-account-key-file={issuer.cert}",
            "--authorization-mode=RBAC",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            # Pods would need an account whose token only a controller manager makes.
            "--disable-admission-plugins=ServiceAccount",
        ]

    def start(self) -> None:
        """Start those that do not run and wait until all of them work."""
        for one in self.servers:
            if not one.runs:
                one.start()
        for one in self.servers:
            one.wait_ready()

    def kill(self) -> None:
        """SIGKILL all of them."""
        for one in self.servers:
            one.kill()

    def request(self, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
        """Status and document of one exchange. Raises OSError."""
        return next(one for one in self.servers if one.runs).call(method, path, body)

    def apply(self, collection: str, obj: Json) -> Json:
        """Create or replace; 1.20 wants a service's version and address in what replaces it."""
        status, made = self.request("POST", collection, obj)
        if status == 409:
            path = f"{collection}/{obj['metadata']['name']}"
            old = self.do("GET", path)
            new = {**obj, "metadata": {**obj["metadata"]}}
            new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
            if obj["kind"] == "Service":
                new["spec"] = {"clusterIP": old["spec"]["clusterIP"], **obj["spec"]}
            return self.do("PUT", path, new)
        assert status < 300, made
        return made

    def client_certificate(self, user: str, group: str = "") -> Pair:
        """A certificate by which its holder is *user*, of *group* if that is named."""
        subject = f"{user}/O={group}" if group else user
        return self.authority.issue(user.replace(":", "-"), cn=subject, usage="clientAuth")


class RealWorld(World):
    """A World with two real kube-apiservers; its nodes know both, and need credentials."""

    def __init__(self, fabric: Fabric, directory: Path, binary: Path) -> None:
        super().__init__(fabric, directory)
        self.api.close()
        fabric.bridge.run(f"ip addr add {SECOND_SERVER}/24 dev br0")
        self.api: Apiservers = Apiservers(
            fabric.bridge, directory, self.etcd.endpoints[0], binary,
            addresses=(CONTROL, SECOND_SERVER),
        )  # fmt: skip
        self.ca = f"--kube-cafile={self.api.authority.cert}"
        self._account_uid = ""

    @property
    def servers(self) -> list[Apiserver]:
        """The API servers; the nodes prefer the first."""
        return self.api.servers

    def token(self, secret: str) -> str:
        """A token for a kube-proxy, good for as long as the Secret *secret*, which is made."""
        if not self._account_uid:
            account = self.api.do("POST", ACCOUNTS, {"metadata": {"name": "netd"}})
            self._account_uid = account["metadata"]["uid"]
            self.permit({"kind": "ServiceAccount", "name": "netd", "namespace": "default"})
        held = self.api.do("POST", SECRETS, {"metadata": {"name": secret}})["metadata"]
        wanted = {"kind": "Secret", "apiVersion": "v1", "name": secret, "uid": held["uid"]}
        request = {"spec": {"audiences": [], "boundObjectRef": wanted}}
        made = self.api.do("POST", f"{ACCOUNTS}/netd/token", request)
        return str(made["status"]["token"])

    def revoke(self, secret: str) -> None:
        """Make the token for *secret* worthless."""
        self.api.do("DELETE", f"{SECRETS}/{secret}")

    def permit(self, subject: Json) -> None:
        """Allow *subject* what a kube-proxy may do."""
        role = {"kind": "ClusterRole", "name": "system:node-proxier",
                "apiGroup": "rbac.authorization.k8s.io"}  # fmt: skip
        name = f"proxy-{subject['name']}"
        body = {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]}
        self.api.do("POST", BINDINGS, body)

    def endpoints(
        self,
        name: str,
        ends: Iterable[Host | Json],
        targets: Collection[Json] = (),
        suffix: str = "x",
    ) -> None:
        """Replace the slice *suffix* of the service *name*."""
        self.api.apply(SLICES, as_v1beta1(slice_of(name, ends, targets or [port(8080)], suffix)))

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """The output of kubectl, which must succeed."""
        return Kubectl(self.fabric.bridge, self.directory, self.servers[0].url,
                       f"--certificate-authority={self.api.authority.cert}",
                       f"--token={ADMIN}").run(*words, stdin=stdin)  # fmt: skip


class Kubectl:
    """kubectl in *space* for *server*; its settings are *flags* alone."""

    def __init__(self, space: Namespace, directory: Path, server: str, *flags: str) -> None:
        self._space = space
        self._argv = ["kubectl", "--kubeconfig=/dev/null", f"--server={server}", *flags,
                      f"--cache-dir={directory / 'kubectl'}"]  # fmt: skip

    def __call__(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.argv(*words), input=stdin, capture_output=True, text=True, check=False, timeout=60
        )

    def argv(self, *words: str) -> list[str]:
        """The command line to run it."""
        return self._space.argv([*self._argv, *words])

    def run(self, *words: str, stdin: str = "") -> str:
        """Its output; AssertionError when it fails."""
        done = self(*words, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout


def as_v1beta1(one: Json) -> Json:
    """An EndpointSlice in the form of Kubernetes 1.17 to 1.24."""
    ends = []
    for end in one["endpoints"]:
        kept = {name: value for name, value in end.items() if name != "nodeName"}
        if "nodeName" in end:
            kept["topology"] = {"kubernetes.io/hostname": end["nodeName"]}
        ends.append(kept)
    return {**one, "apiVersion": "discovery.k8s.io/v1beta1", "endpoints": ends}


@contextlib.contextmanager
def real_world(directory: Path, binary: Path) -> Iterator[RealWorld]:
    """A RealWorld whose API servers run; removed with the context."""
    assert shutil.which("kubectl"), "kubectl is missing: install Debian's kubernetes-client"
    fabric = Fabric()
    try:
        made = RealWorld(fabric, directory, binary)
        try:
            with made.etcd:
                made.api.start()
                yield made
        finally:
            made.api.kill()
            made.close()
    finally:
        fabric.remove()


def replace_file(path: Path, text: str) -> Path:
    """Write *path* anew as a whole, as renewers of credentials do."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    return fresh.replace(path)
