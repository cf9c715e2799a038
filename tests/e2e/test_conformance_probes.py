"""Conformance: probes. What must not happen is watched for as long as it takes several probes."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.support.conformance import Space, case, only, pod, space_of
from tests.support.kubelab import KubeLab, is_ready
from tests.support.realnode import IDLE, container
from tests.support.services import Json

pytestmark = pytest.mark.e2e

PROBES = 5
"""So many probes must go well before "is not restarted" counts."""
STARTED = 10
"""By then a container has begun, on a busy machine too: one probe that fails restarts it."""

SERVE = "mkdir -p /www; echo ok > /www/healthz; httpd -f -vv -p 8080 -h /www 2>&1"
SPELL = f"{SERVE} & sleep 2; rm /www/healthz; {IDLE}"
"""A web server whose page of health is gone after a while."""
HEALTHY = ["cat", "/tmp/health"]


@pytest.fixture(scope="module")
def space(kube: KubeLab) -> Iterator[Space]:
    """The pods of this module."""
    with space_of(kube, __name__) as made:
        yield made


def probed(name: str, script: str, probe: Json, kind: str = "liveness", **more: Any) -> Json:
    """A pod that is probed each second; one failure is enough."""
    often = {"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 10, **more}
    field: Json = {f"{kind}Probe": {**probe, **often}}
    return pod(name, container(script, **field))


def restarts(found: Json) -> int:
    """How often the container was started again."""
    return int(only(found).get("restartCount", 0))


@case(
    '[k8s.io] Probing container should be restarted with a exec "cat /tmp/health" liveness probe '
    "[NodeConformance] [Conformance]",
    needs=[probed("exec-fails", f"touch /tmp/health; sleep 2; rm /tmp/health; {IDLE}",
                  {"exec": {"command": HEALTHY}, "initialDelaySeconds": 1})],
)  # fmt: skip
def test_a_command_that_fails_restarts_the_container(space: Space) -> None:
    found = space.until("exec-fails", restarts, "is restarted")
    assert "terminated" in only(found)["lastState"]


@case(
    "[k8s.io] Probing container should be restarted with a /healthz http liveness probe "
    "[NodeConformance] [Conformance]",
    needs=[probed("http-fails", SPELL, {"httpGet": {"path": "/healthz", "port": 8080},
                                        "initialDelaySeconds": 1})],
)  # fmt: skip
def test_a_page_that_fails_restarts_the_container(space: Space) -> None:
    space.until("http-fails", restarts, "is restarted")

    def told() -> bool:
        chosen = "involvedObject.name=http-fails,reason=Unhealthy"
        return any("404" in one["message"] for one in space.find("Event", fieldSelector=chosen))

    # The event may come after the status, and before it one of a server that does not listen yet.
    space.kube.wait(told, "the answer is told")


@case(
    "[k8s.io] Probing container should have monotonically increasing restart count "
    "[NodeConformance] [Conformance]",
)
def test_the_count_of_restarts_only_grows(space: Space) -> None:
    """Three restarts, of which the third waits for 20 s; watched from the pod's making on."""
    space.create(probed("again-and-again", "sleep 1000", {"exec": {"command": ["false"]}}))
    first = space.get("Pod", "again-and-again")["metadata"]["resourceVersion"]
    space.until("again-and-again", lambda one: restarts(one) >= 3, "is restarted three times")

    def told() -> list[int]:
        found = [restarts(one) for _, one in space.changes("again-and-again", first)]
        return found if found and found[-1] >= 3 else []

    counts = space.kube.wait(told, "all of it was told")
    assert counts == sorted(counts)
    assert set(counts) >= {1, 2, 3}


@case(
    '[k8s.io] Probing container should *not* be restarted with a exec "cat /tmp/health" liveness '
    "probe [NodeConformance] [Conformance]",
    needs=[probed("exec-holds", f"touch /tmp/health; {IDLE}",
                  {"exec": {"command": ["sh", "-c", "cat /tmp/health && echo >> /tmp/probes"]},
                   "initialDelaySeconds": STARTED})],
)  # fmt: skip
def test_a_command_that_succeeds_restarts_nothing(space: Space) -> None:
    space.ready("exec-holds")
    space.kube.wait(
        lambda: len(space.shell("exec-holds", "cat /tmp/probes")) >= PROBES, "it was probed"
    )
    assert restarts(space.get("Pod", "exec-holds")) == 0


@case(
    "[k8s.io] Probing container should *not* be restarted with a /healthz http liveness probe "
    "[NodeConformance] [Conformance]",
    needs=[probed("http-holds", SERVE, {"httpGet": {"path": "/healthz", "port": 8080},
                                        "initialDelaySeconds": STARTED})],
)  # fmt: skip
def test_a_page_that_is_there_restarts_nothing(space: Space) -> None:
    space.ready("http-holds")
    space.kube.wait(
        lambda: space.log("http-holds").count("response:200") >= PROBES, "it was probed"
    )
    assert restarts(space.get("Pod", "http-holds")) == 0


@case(
    "[k8s.io] Probing container should *not* be restarted with a tcp:8080 liveness probe "
    "[NodeConformance] [Conformance]",
    needs=[probed("tcp-holds", "exec nc -ll -p 8080 -e sh -c 'echo >> /tmp/probes'",
                  {"tcpSocket": {"port": 8080}, "initialDelaySeconds": STARTED})],
)  # fmt: skip
def test_a_port_that_is_open_restarts_nothing(space: Space) -> None:
    """Whatever is said on the connection."""
    space.ready("tcp-holds")
    space.kube.wait(
        lambda: len(space.shell("tcp-holds", "cat /tmp/probes")) >= PROBES, "it was probed"
    )
    assert restarts(space.get("Pod", "tcp-holds")) == 0


@case(
    "[k8s.io] Probing container with readiness probe should not be ready before initial delay "
    "and never restart [NodeConformance] [Conformance]",
    needs=[probed("delayed", SERVE, {"httpGet": {"path": "/healthz", "port": 8080}}, "readiness",
                  initialDelaySeconds=5)],
)  # fmt: skip
def test_a_container_is_not_ready_before_the_delay(space: Space) -> None:
    found = space.until("delayed", is_ready, "is ready")

    def moment(text: str) -> float:
        return datetime.fromisoformat(text).timestamp()

    (ready,) = [c for c in found["status"]["conditions"] if c["type"] == "Ready"]
    started = only(found)["state"]["running"]["startedAt"]
    # Both are told in whole seconds.
    assert moment(ready["lastTransitionTime"]) - moment(started) >= 4
    assert restarts(found) == 0


@case(
    "[k8s.io] Probing container with readiness probe that fails should never be ready and never "
    "restart [NodeConformance] [Conformance]",
    needs=[probed("never-ready", IDLE,
                  {"exec": {"command": ["sh", "-c", "echo >> /tmp/probes; exit 1"]}}, "readiness")],
)  # fmt: skip
def test_a_container_whose_readiness_fails_is_never_ready_and_not_restarted(space: Space) -> None:
    first = space.get("Pod", "never-ready")["metadata"]["resourceVersion"]
    space.until("never-ready", lambda one: "running" in only(one).get("state", {}), "runs")
    space.kube.wait(
        lambda: len(space.shell("never-ready", "cat /tmp/probes")) >= PROBES, "it was probed"
    )
    found = space.get("Pod", "never-ready")
    assert not is_ready(found)
    assert restarts(found) == 0
    assert not any(is_ready(one) for _, one in space.changes("never-ready", first))
