"""Conformance: what this release does not do, and what it says instead."""

from collections.abc import Iterator

import pytest

from tests.support.conformance import Space, case, once, pod, space_of
from tests.support.kubelab import KubeLab

pytestmark = pytest.mark.e2e

NO_STREAMS = (
    "nodeagent serves no exec, attach or port-forward: its server has no SPDY or WebSocket "
    "streams. "
    "`kubectl exec` ends with a sentence that names `docker exec` on the node."
)
NO_DNS = (
    "there is no cluster DNS: netd and nodeagent bring none, and the lab starts none. Services are "
    "found by environment variables; with `--cluster-dns` pods ask whatever DNS service is there."
)


@pytest.fixture(scope="module")
def space(kube: KubeLab) -> Iterator[Space]:
    """The pods of this module."""
    with space_of(kube, __name__) as made:
        yield made


@case(
    "[k8s.io] Pods should support remote command execution over websockets [NodeConformance] "
    "[Conformance]",
    needs=[pod("busy")],
    fails=NO_STREAMS,
)
def test_exec_is_refused_with_the_way_out(space: Space) -> None:
    space.ready("busy")
    said = space.kube.kubectl("exec", "-n", space.namespace, "busy", "--", "id", check=False)
    assert "docker exec" in said


@case(
    "[sig-network] DNS should provide DNS for services [Conformance]",
    "[sig-network] DNS should provide DNS for the cluster [Conformance]",
    "[sig-network] DNS should provide DNS for pods for Hostname [LinuxOnly] [Conformance]",
    "[sig-network] DNS should provide DNS for pods for Subdomain [Conformance]",
    "[sig-network] DNS should provide DNS for ExternalName services [Conformance]",
    needs=[once("asks", "nslookup kubernetes.default.svc.cluster.local && exit 1 || exit 0")],
    fails=NO_DNS,
)
def test_names_of_services_are_not_resolved(space: Space) -> None:
    assert space.ended("asks")["status"]["phase"] == "Succeeded"
