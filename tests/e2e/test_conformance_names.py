"""Conformance: names and tokens of pods: hosts files, resolver settings, service accounts."""

from collections.abc import Iterator

import pytest

from tests.support.conformance import Space, case, mount, once, pod, space_of
from tests.support.kubelab import KubeLab
from tests.support.realnode import IDLE, container
from tests.support.services import Json

pytestmark = pytest.mark.e2e

TOKENS = "/var/run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture(scope="module")
def space(kube: KubeLab) -> Iterator[Space]:
    """The pods of this module."""
    with space_of(kube, __name__) as made:
        yield made


# --- names ---


def names(text: str) -> dict[str, set[str]]:
    """The names of each address of a hosts file."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if words:
            found.setdefault(words[0], set()).update(words[1:])
    return found


@case(
    "[k8s.io] Kubelet when scheduling a busybox Pod with hostAliases should write entries to "
    "/etc/hosts [LinuxOnly] [NodeConformance] [Conformance]",
    needs=[once("aliases", "cat /etc/hosts", spec={
        "hostAliases": [{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}]})],
)  # fmt: skip
def test_aliases_are_in_the_hosts_file(space: Space) -> None:
    assert names(space.output("aliases"))["123.45.67.89"] == {"foo", "bar"}


@case(
    "[k8s.io] KubeletManagedEtcHosts should test kubelet managed /etc/hosts file [LinuxOnly] "
    "[NodeConformance] [Conformance]",
    needs=[
        pod("hosts-managed", container(IDLE, "own"),
            container(IDLE, "other", volumeMounts=[mount("v", "/etc/hosts")]),
            volumes=[{"name": "v", "hostPath": {"path": "/etc/hosts", "type": "File"}}]),
        pod("hosts-of-host", container("cat /etc/hosts"), hostNetwork=True, restartPolicy="Never"),
    ],
)  # fmt: skip
def test_the_hosts_file_is_the_pod_s_unless_the_host_s_is_wanted(space: Space) -> None:
    found = space.ready("hosts-managed")
    ip, host = found["status"]["podIP"], found["spec"]["nodeName"]
    own = space.inside("hosts-managed", "cat", "/etc/hosts", container="own")
    other = space.inside("hosts-managed", "cat", "/etc/hosts", container="other")
    assert "hosts-managed" in names(own)[ip]
    assert other == space.kube.exec(host, "cat", "/etc/hosts")
    of_host = space.ended("hosts-of-host")["spec"]["nodeName"]
    theirs = names(space.kube.exec(of_host, "cat", "/etc/hosts"))
    assert names(space.output("hosts-of-host")).items() >= theirs.items()


@case(
    "[sig-network] DNS should provide /etc/hosts entries for the cluster [LinuxOnly] [Conformance]",
    needs=[once("named", "cat /etc/hosts; hostname",
                spec={"hostname": "querier", "subdomain": "service"})],
)  # fmt: skip
def test_a_pod_finds_its_own_full_name(space: Space) -> None:
    text = space.output("named")
    full = f"querier.service.{space.namespace}.svc.cluster.local"
    assert any({full, "querier"} <= each for each in names(text).values())
    assert text.splitlines()[-1] == "querier"


@case(
    "[sig-network] DNS should support configurable pod DNS nameservers [Conformance]",
    needs=[once("resolver", "cat /etc/resolv.conf", spec={
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["resolv.conf.local"]},
    })],
)  # fmt: skip
def test_a_pod_s_own_resolver_settings_are_the_only_ones(space: Space) -> None:
    lines = [line.split() for line in space.output("resolver").splitlines() if line]
    assert sorted(lines) == [["nameserver", "1.1.1.1"], ["search", "resolv.conf.local"]]


# --- service accounts ---

ACCOUNTS = "[sig-auth] ServiceAccounts should "


def asks(name: str, account: str, mounts: bool | None = None) -> Json:
    """A pod that tells whether it has a token."""
    spec: Json = {"serviceAccountName": account}
    if mounts is not None:
        spec["automountServiceAccountToken"] = mounts
    return once(name, f"[ -s {TOKENS}/token ] && echo token || echo none", spec=spec)


def account(name: str, mounts: bool) -> Json:
    """A service account; its pods get a token if *mounts*."""
    return {"kind": "ServiceAccount", "metadata": {"name": name},
            "automountServiceAccountToken": mounts}  # fmt: skip


@case(
    ACCOUNTS + "mount an API token into pods [Conformance]",
    needs=[once("token", f"cd {TOKENS}; cat namespace; echo; head -1 ca.crt; cat token")],
)
def test_a_pod_has_token_root_and_namespace(space: Space) -> None:
    namespace, root, token = space.output("token").splitlines()
    assert namespace == space.namespace
    assert root == "-----BEGIN CERTIFICATE-----"
    assert reviewed(space, token) == f"system:serviceaccount:{space.namespace}:default"


@case(
    ACCOUNTS + "allow opting out of API token automount [Conformance]",
    needs=[
        account("mounts", mounts=True), account("mounts-not", mounts=False),
        *(asks(f"asks-{who}-{word}", who, choice)
          for who in ("default", "mounts", "mounts-not")
          for word, choice in (("open", None), ("yes", True), ("no", False))),
    ],
)  # fmt: skip
def test_the_pod_s_choice_of_a_token_goes_before_its_account_s(space: Space) -> None:
    for who in ("default", "mounts", "mounts-not"):
        assert space.output(f"asks-{who}-yes") == "token\n"
        assert space.output(f"asks-{who}-no") == "none\n"
        expected = "none\n" if who == "mounts-not" else "token\n"
        assert space.output(f"asks-{who}-open") == expected


@case(
    ACCOUNTS + "mount projected service account token [Conformance]",
    needs=[once("projected-token", "cat /t/token", volumeMounts=[mount("t", "/t")], volumes=[
        {"name": "t", "projected": {"sources": [{"serviceAccountToken": {
            "path": "token", "expirationSeconds": 3600}}]}}])],
)  # fmt: skip
def test_a_token_is_projected_into_a_volume(space: Space) -> None:
    who = reviewed(space, space.output("projected-token"))
    assert who == f"system:serviceaccount:{space.namespace}:default"


def reviewed(space: Space, token: str) -> str:
    """Whose token this is, as the API server says."""
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token}}  # fmt: skip
    status, found = space.kube.api("POST", path, body)
    assert status == 201, found
    return str(found["status"]["user"]["username"])
