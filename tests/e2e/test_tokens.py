"""Join tokens and their rights at a real API server, controller manager and signer.

The lab is shared: what is put there is removed at the end.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from hostkit.kube.config import KubeConfig
from hostkit.kube.errors import ApiError, Forbidden, NotFound, Unauthorized
from lab.join import bootstrap, csr, objects, tokencommand, tokens
from lab.join.api import Api, Raw
from lab.join.model import CONFIG_KEY, ClusterConfig, Host
from lab.join.tokens import Token
from lab.master import x509
from lab.store import Paths
from tests.support.kubelab import KubeLab
from tests.support.netns import enter

pytestmark = pytest.mark.e2e

T = TypeVar("T")

CONFIG_MAP = "/api/v1/namespaces/kube-system/configmaps/barenode"
CLUSTER_INFO = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
NODE = "token-test"
ADDRESS = "192.0.2.77"
WITHIN = 90.0


@dataclass
class Cluster:
    """A lab's API server for users of every kind; calls are made from the hosts' network."""

    lab: KubeLab
    folder: Path
    pki: Path

    @property
    def server(self) -> str:
        """The master's URL."""
        return f"https://{self.lab.address(self.lab.masters[0])}:6443"

    @property
    def placed(self) -> tuple[objects.Placed, ...]:
        """What init would put there."""
        master = self.lab.masters[0]
        config = ClusterConfig(
            masters=(Host(master, self.lab.address(master)),),
            pods="10.244.0.0/16", services="10.96.0.0/12", domain="cluster.local", version="v1.20",
        )  # fmt: skip
        return objects.for_cluster(config, self.server, (self.pki / "ca.crt").read_bytes())

    def config(self, *, token: Token | None = None, pair: Path | None = None) -> KubeConfig:
        """The credential *token*, or that in *pair* (without suffix), or none."""
        return KubeConfig(
            (self.server,),
            ca_file=str(self.pki / "ca.crt"),
            token=str(token or ""),
            cert_file=f"{pair}.crt" if pair else "",
            key_file=f"{pair}.key" if pair else "",
        )

    @property
    def admin(self) -> KubeConfig:
        """The administrator."""
        return self.config(pair=self.pki / "admin")

    def do(self, who: KubeConfig, work: Callable[[Api], Awaitable[T]]) -> T:
        """Have *work* done with a client of *who*."""
        network = self.lab.network("fabric")

        async def inside() -> T:
            async with Api(who) as api:
                return await work(api)

        def run() -> T:
            enter(network)
            return asyncio.run(inside())

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(run).result()

    def call(self, who: KubeConfig, method: str, path: str, body: Raw | None = None) -> Raw:
        """One request."""
        return self.do(who, lambda api: api.call(method, path, body))

    def token(self, ttl: timedelta | None = timedelta(hours=1), *, ago: timedelta = timedelta(0)
    ) -> Token:  # fmt: skip
        """A new token that was made *ago* for *ttl*."""
        made, now = Token.new(), datetime.now(UTC) - ago
        self.do(self.admin, lambda api: bootstrap.put_token(api, made, ttl, "of a test", now))
        return made

    def shown(self, token: Token) -> KubeConfig:
        """The credential *token*, once the server lets its holder read the configuration.

        It learns of tokens, roles and bindings by watches.
        """
        who = self.config(token=token)
        self.lab.wait(lambda: self.opens(who, CONFIG_MAP), "the token opens", WITHIN)
        return who

    def opens(self, who: KubeConfig, path: str) -> bool:
        """Whether *who* may read *path*."""
        with contextlib.suppress(Unauthorized, Forbidden):
            self.call(who, "GET", path)
            return True
        return False

    def allowed(self, who: KubeConfig, verb: str, what: str, name: str = "", **more: str) -> bool:
        """Whether *who* may; *what* is RESOURCE.GROUP or RESOURCE, with /SUBRESOURCE."""
        resource, _, group = what.partition(".")
        resource, _, sub = resource.partition("/")
        asked = {"verb": verb, "group": group, "resource": resource, "subresource": sub,
                 "name": name, **more}  # fmt: skip
        answer = self.call(who, "POST", REVIEWS, {
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        })  # fmt: skip
        return bool(answer["status"]["allowed"])

    def refused(self, who: KubeConfig, method: str, path: str, kind: type[ApiError]) -> None:
        """*who* is refused so."""
        with pytest.raises(kind):
            self.call(who, method, path)

    def signed(self, who: KubeConfig, request: csr.Request, approver: KubeConfig | None) -> Path:
        """The pair that *who* gets; *approver* approves, None: the controller manager does."""

        async def submit(api: Api) -> None:
            await csr.Requests(api).submit(request)

        async def approve(api: Api) -> None:
            await csr.Requests(api).approve(request.name)

        async def fetch(api: Api) -> bytes:
            return await csr.Requests(api).certificate(request.name, timeout=WITHIN)

        self.do(who, submit)
        if approver is not None:
            self.do(approver, approve)
        pem = self.do(who, fetch)
        csr.accept(pem, request, [x509.load_certificate((self.pki / "ca.crt").read_bytes())])
        pair = self.folder / request.name
        Path(f"{pair}.crt").write_bytes(pem)
        Path(f"{pair}.key").write_bytes(x509.key_pem(request.key))
        return pair


@pytest.fixture(scope="module")
def cluster(kube: KubeLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The shared lab, with what init puts there."""
    pki = Paths.standard(os.environ).pki(kube.name)
    made = Cluster(kube, tmp_path_factory.mktemp("tokens"), pki)
    made.do(made.admin, lambda api: bootstrap.put(api, made.placed))
    kube.wait(lambda: made.opens(made.config(), CLUSTER_INFO), "strangers are let in", WITHIN)
    yield made

    async def remove(api: Api) -> None:
        for collection, document in reversed(made.placed):
            await api.call("DELETE", f"{collection}/{document['metadata']['name']}")
        for info in await tokencommand.listed(api, bootstrap.now_utc):
            # The token cleaner may be faster.
            with contextlib.suppress(NotFound):
                await api.call("DELETE", tokens.secret_path(info.id))
        for one in (await api.call("GET", CSRS))["items"] or ():
            if NODE in one["metadata"]["name"]:
                await api.call("DELETE", f"{CSRS}/{one['metadata']['name']}")

    made.do(made.admin, remove)


@pytest.fixture(scope="module")
def joiner(cluster: Cluster) -> KubeConfig:
    """A host with a token."""
    return cluster.shown(cluster.token())


@pytest.fixture(scope="module")
def node(cluster: Cluster, joiner: KubeConfig) -> KubeConfig:
    """The host with the credential that it got for its token."""
    request = csr.Request(csr.CLIENT, csr.client_of(NODE), x509.new_key())
    return cluster.config(pair=cluster.signed(joiner, request, None))


def test_a_stranger_reads_the_cluster_info_and_nothing_else(cluster: Cluster) -> None:
    """By which a host knows the cluster before it has shown its token."""
    stranger = cluster.config()
    assert cluster.server in cluster.call(stranger, "GET", CLUSTER_INFO)["data"]["kubeconfig"]
    for path in (CONFIG_MAP, "/api/v1/nodes", "/api/v1/namespaces/kube-public/configmaps"):
        cluster.refused(stranger, "GET", path, Forbidden)


def test_the_cluster_info_is_signed_with_every_token_and_stays_so(cluster: Cluster) -> None:
    """Other tools check that; what is put again leaves it alone."""
    key = f"jws-kubeconfig-{cluster.token().id}"

    def signed() -> bool:
        return key in cluster.call(cluster.admin, "GET", CLUSTER_INFO)["data"]

    cluster.lab.wait(signed, "the bootstrap signer signs", WITHIN)
    cluster.do(cluster.admin, lambda api: bootstrap.put(api, cluster.placed))
    assert signed()


def test_what_is_put_again_is_left_as_it_is(cluster: Cluster) -> None:
    """The server adds fields of its own: none of them makes a difference."""

    # The signer changes the other one as tokens come and go.
    steady = [one for one in cluster.placed if one[1]["metadata"]["name"] != "cluster-info"]

    async def versions(api: Api) -> list[str]:
        found = [await api.get(f"{at}/{one['metadata']['name']}") for at, one in steady]
        return [one["metadata"]["resourceVersion"] if one else "" for one in found]

    before = cluster.do(cluster.admin, versions)
    cluster.do(cluster.admin, lambda api: bootstrap.put(api, cluster.placed))
    assert cluster.do(cluster.admin, versions) == before
    assert all(before)


def test_a_token_reads_what_a_host_has_to_know(cluster: Cluster, joiner: KubeConfig) -> None:
    """The cluster's configuration, and which nodes there are."""
    text = cluster.call(joiner, "GET", CONFIG_MAP)["data"][CONFIG_KEY]
    assert cluster.lab.masters[0] in text
    nodes = cluster.call(joiner, "GET", "/api/v1/nodes")["items"]
    assert {one["metadata"]["name"] for one in nodes} >= set(cluster.lab.hosts)


def test_a_token_may_do_nothing_else(cluster: Cluster, joiner: KubeConfig) -> None:
    """It is on paper, in a chat, in a shell's history."""
    may = cluster.allowed
    assert may(joiner, "create", "certificatesigningrequests.certificates.k8s.io")
    approve = ("approve", "signers.certificates.k8s.io")
    assert may(joiner, *approve, csr.SERVING)
    assert not may(joiner, *approve, csr.CLIENT)
    assert not may(joiner, *approve, "kubernetes.io/kube-apiserver-client")
    for verb, what in (
        ("list", "secrets"), ("get", "pods"), ("create", "pods"), ("delete", "nodes"),
        ("create", "nodes"), ("update", "nodes"), ("list", "configmaps"),
        ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
        ("delete", "certificatesigningrequests.certificates.k8s.io"),
    ):  # fmt: skip
        assert not may(joiner, verb, what, namespace="kube-system"), (verb, what)


def test_a_token_that_is_over_deleted_or_wrong_opens_nothing(cluster: Cluster) -> None:
    """401, so that the host can be told that it is the token."""
    over = cluster.token(timedelta(minutes=1), ago=timedelta(minutes=2))
    gone = cluster.token()
    wrong = Token(cluster.token().id, "0" * 16)
    cluster.call(cluster.admin, "DELETE", tokens.secret_path(gone.id))
    for token in (over, wrong):
        cluster.refused(cluster.config(token=token), "GET", CONFIG_MAP, Unauthorized)

    def refused() -> bool:
        # The server learns of a deletion by a watch.
        with contextlib.suppress(Unauthorized):
            cluster.call(cluster.config(token=gone), "GET", CONFIG_MAP)
            return False
        return True

    cluster.lab.wait(refused, "a deleted token is refused", WITHIN)


def test_a_token_for_ever_opens_too(cluster: Cluster) -> None:
    """It has no expiration."""
    assert cluster.call(cluster.shown(cluster.token(None)), "GET", CONFIG_MAP)


def test_a_node_gets_all_that_netd_and_its_renewal_need(cluster: Cluster, node: KubeConfig) -> None:
    """With the certificate that it got for a token."""
    for what in ("services", "endpoints", "endpointslices.discovery.k8s.io", "nodes"):
        assert cluster.allowed(node, "list", what), what
        assert cluster.allowed(node, "watch", what), what
    request = csr.Request(csr.CLIENT, csr.client_of(NODE), x509.new_key(), "renewal")
    renewed = cluster.config(pair=cluster.signed(node, request, None))
    assert cluster.call(renewed, "GET", CONFIG_MAP)


def test_a_node_leaves_by_itself_and_removes_no_other(cluster: Cluster, node: KubeConfig) -> None:
    """The right to delete nodes is kept to its own by NodeRestriction."""
    path = f"/api/v1/nodes/{NODE}"
    document = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
    cluster.call(node, "POST", "/api/v1/nodes", document)
    cluster.refused(node, "DELETE", f"/api/v1/nodes/{cluster.lab.workers[0]}", Forbidden)
    cluster.call(node, "DELETE", path)
    cluster.refused(cluster.admin, "GET", path, NotFound)


def test_a_serving_certificate_needs_the_tokens_approval(
    cluster: Cluster, node: KubeConfig, joiner: KubeConfig
) -> None:
    """A node that could approve its own would get one for any name."""
    assert not cluster.allowed(node, "approve", "signers.certificates.k8s.io", csr.SERVING)
    request = csr.Request(csr.SERVING, csr.serving_of(NODE, ADDRESS), x509.new_key())
    pair = cluster.signed(node, request, joiner)
    made = x509.load_certificate(Path(f"{pair}.crt").read_bytes())
    assert x509.wanted_of("kubelet", "ca", made).addresses == (ADDRESS,)
