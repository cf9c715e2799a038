"""What users do with running applications: logs, events, drains, updates, daemons and jobs."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.support.kubelab import KubeLab, is_ready
from tests.support.services import Json

pytestmark = pytest.mark.e2e

BUSYBOX, NGINX = "barenode/busybox:lab", "barenode/nginx:lab"
NOWHERE = "127.0.0.1:9/nowhere:1"
"""An image at a registry that is not there: nothing listens on a host's discard port."""
PODS = "/api/v1/namespaces/default/pods"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
REQUESTS = 200
"""How many requests each of two hosts makes at least while an application is updated."""


@pytest.fixture(autouse=True)
def clean(kube: KubeLab) -> Iterator[None]:
    """Nothing of a test is left for the next one, and every worker takes pods."""
    try:
        yield
    finally:
        for host in kube.workers:
            kube.kubectl("uncordon", host)
        kube.delete_all()


def container(script: str, **more: Any) -> Json:
    """A container that runs *script*."""
    return {"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script], **more}


def apply(kube: KubeLab, kind: str, name: str, spec: Json, version: str = "v1") -> None:
    """An object with the label app=NAME."""
    metadata = {"name": name, "labels": {"app": name}}
    kube.apply(
        json.dumps({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
    )


def template(name: str, *containers: Json, **spec: Any) -> Json:
    """A pod template with the label app=NAME; its pods end within a second."""
    wanted = {"terminationGracePeriodSeconds": 1, "containers": list(containers), **spec}
    return {"metadata": {"labels": {"app": name}}, "spec": wanted}


def replicated(name: str, pods: Json, **spec: Any) -> Json:
    """The spec of what makes pods with the label app=NAME."""
    return {"selector": {"matchLabels": {"app": name}}, "template": pods, **spec}


def hosts_of(pods: list[Json]) -> list[str]:
    """The nodes of pods, sorted."""
    return sorted(pod["spec"]["nodeName"] for pod in pods)


# --- logs and events ---


def test_logs_are_followed_line_by_line_until_the_pod_ends(kube: KubeLab) -> None:
    """``kubectl logs -f`` shows a line when it is written, and ends by itself."""
    script = (
        "echo one; until [ -e /go ]; do sleep 0.1; done; echo two;"
        " until [ -e /end ]; do sleep 0.1; done; echo three"
    )
    apply(kube, "Pod", "talker", {"restartPolicy": "Never", "containers": [container(script)]})
    (pod,) = kube.ready_pods("app=talker", 1)
    identity = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("docker://")
    (host,) = hosts_of([pod])
    pid = kube.docker(host, "inspect", "--format={{.State.Pid}}", identity)
    argv = [sys.executable, "-m", "lab", "lab", "kubectl", "--name", kube.name, "--"]
    with subprocess.Popen(
        [*argv, "logs", "--follow", "talker"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "one\n"
            for file, line in (("/go", "two\n"), ("/end", "three\n")):
                # A process in the container may be killed by its end before it has ended itself.
                kube.exec(host, "touch", f"/proc/{pid}/root{file}")
                assert process.stdout.readline() == line
            assert process.stdout.read() == ""
            assert process.wait(60) == 0
        finally:
            process.kill()


def described(kube: KubeLab, pod: str, *wanted: str) -> str:
    """What ``kubectl describe`` says of *pod* once all that is *wanted* is below "Events:"."""

    def look() -> str:
        events = kube.kubectl("describe", "pod", pod).partition("\nEvents:")[2]
        assert not (missing := [one for one in wanted if one not in events]), (missing, events)
        return events

    return kube.wait(look, f"describe tells {', '.join(wanted)}")


def test_describe_tells_the_life_of_a_pod_and_what_is_wrong_with_it(kube: KubeLab) -> None:
    """A good one, one whose image is nowhere, one whose probe fails."""
    sleeper = "exec sleep 1000"
    probe = {"exec": {"command": ["sh", "-c", "echo not today; exit 1"]}, "periodSeconds": 1}
    for name, only in {
        "good": container(sleeper),
        "lost": container(sleeper, image=NOWHERE),
        "sick": container(sleeper, readinessProbe=probe),
    }.items():
        spec = {"terminationGracePeriodSeconds": 0, "containers": [only]}
        apply(kube, "Pod", name, spec)
    events = described(kube, "good", "Scheduled", "Pulled", "Created", "Started")
    assert "Successfully assigned default/good to " in events
    assert BUSYBOX in events
    assert "Warning  Failed" not in events
    described(kube, "lost", "Failed", NOWHERE, "connection refused")

    def waiting() -> Json:
        # The event may be there before the status.
        (status,) = kube.json("get", "pod", "lost")["status"].get("containerStatuses") or [{}]
        found: Json = status.get("state", {}).get("waiting", {})
        return found if found.get("reason") in {"ErrImagePull", "ImagePullBackOff"} else {}

    lost = kube.wait(waiting, "its status tells of it")
    assert NOWHERE in lost["message"]
    described(kube, "sick", "Unhealthy", "Readiness probe failed", "not today")


# --- nodes ---


def test_drain_moves_pods_and_leaves_daemons_until_the_node_is_taken_back(kube: KubeLab) -> None:
    """``cordon`` keeps new pods away, ``drain`` takes the others, ``uncordon`` ends both."""
    one, other = kube.workers
    daemon = template("daemon", container("exec sleep 1000"))
    apply(kube, "DaemonSet", "daemon", replicated("daemon", daemon), "apps/v1")
    web = template("web", container("exec sleep 1000"))
    apply(kube, "Deployment", "web", replicated("web", web, replicas=4), "apps/v1")
    assert set(hosts_of(kube.ready_pods("app=web", 4))) == {one, other}
    daemons = kube.ready_pods("app=daemon", 2)

    kube.kubectl("cordon", one)
    assert "SchedulingDisabled" in kube.kubectl("get", "node", one)
    said = kube.kubectl("drain", one, "--timeout=120s", check=False)
    assert "DaemonSet-managed" in said
    assert one in hosts_of(kube.ready_pods("app=web", 4))

    kube.kubectl("drain", one, "--ignore-daemonsets", "--timeout=300s")
    assert hosts_of(kube.ready_pods("app=web", 4)) == [other] * 4
    names = {pod["metadata"]["name"] for pod in daemons}
    assert {pod["metadata"]["name"] for pod in kube.ready_pods("app=daemon", 2)} == names

    kube.kubectl("uncordon", one)
    kube.kubectl("scale", "deployment", "web", "--replicas=6")
    assert one in hosts_of(kube.ready_pods("app=web", 6))


def test_a_daemon_set_runs_on_every_worker_and_by_toleration_on_masters(kube: KubeLab) -> None:
    """One pod each; the master's taint keeps those away that do not tolerate it."""
    pods = template("everywhere", container("exec sleep 1000"))
    apply(kube, "DaemonSet", "everywhere", replicated("everywhere", pods), "apps/v1")
    assert hosts_of(kube.ready_pods("app=everywhere", 2)) == sorted(kube.workers)
    pods["spec"]["tolerations"] = [{"operator": "Exists", "effect": "NoSchedule"}]
    apply(kube, "DaemonSet", "everywhere", replicated("everywhere", pods), "apps/v1")
    kube.kubectl("rollout", "status", "daemonset/everywhere", "--timeout=300s")
    assert hosts_of(kube.ready_pods("app=everywhere", 3)) == sorted(kube.hosts)


# --- updates ---


def site(release: str) -> Json:
    """A Deployment's spec whose pods serve the name of their release.

    Practice for updates that nobody notices: a readiness probe; a pause before the end, in which
    every node learns that the pod is going; and a server that finishes its requests.
    """
    script = f"echo {release} > /var/www/html/index.html; exec nginx -g 'daemon off;'"
    only = container(
        script, image=NGINX,
        readinessProbe={"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1},
        lifecycle={"preStop": {"exec": {"command": ["sleep", "10"]}}},
    )  # fmt: skip
    pods = template("site", only, terminationGracePeriodSeconds=60)
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    return replicated("site", pods, replicas=3, strategy=strategy)


def test_a_rolling_update_fails_no_request_of_clients_on_two_hosts(kube: KubeLab) -> None:
    """They ask one after the other, each time by a new connection, from before to after it."""
    apply(kube, "Deployment", "site", site("one"), "apps/v1")
    kube.ready_pods("app=site", 3)
    kube.kubectl("expose", "deployment", "site", "--port=80")
    url = f"http://{kube.json('get', 'service', 'site')['spec']['clusterIP']}/"
    for host in kube.workers:
        kube.wait(lambda host=host: kube.curl(host, url) == "one\n", f"{host} reaches it")  # type: ignore[misc]
    asking = (
        f"while :; do curl -sS --fail --max-time 10 {url} 2>&1 || echo failed; done > /run/answers"
    )
    try:
        with contextlib.ExitStack() as stack:
            for host in kube.workers:
                stack.enter_context(kube.popen(host, "sh", "-c", asking))

            def answers(host: str) -> list[str]:
                return kube.exec(host, "cat", "/run/answers").splitlines()

            def after(host: str, before: int) -> bool:
                return len(answers(host)) > before + REQUESTS // 4

            for host in kube.workers:
                kube.wait(lambda host=host: after(host, 0), f"{host} asks")  # type: ignore[misc]
            apply(kube, "Deployment", "site", site("two"), "apps/v1")
            kube.kubectl("rollout", "status", "deployment/site", "--timeout=300s")
            kube.ready_pods("app=site", 3)
            for host in kube.workers:
                made = len(answers(host))
                enough = max(made, REQUESTS - REQUESTS // 4)
                kube.wait(lambda host=host, enough=enough: after(host, enough), f"{host} goes on")  # type: ignore[misc]
            told = {host: answers(host) for host in kube.workers}
    finally:
        for host in kube.workers:
            kube.exec(host, "rm", "-f", "/run/answers")
    for host, lines in told.items():
        failures = [line for line in lines if line not in {"one", "two"}]
        assert failures == [], f"{host}: {len(failures)} of {len(lines)}"
        assert len(lines) >= REQUESTS
        assert (lines[0], set(lines[-REQUESTS // 4 :])) == ("one", {"two"})


# --- jobs ---


def job(name: str, script: str, **spec: Any) -> Json:
    """A Job's spec; its pods are not started again."""
    return {"template": template(name, container(script), restartPolicy="Never"), **spec}


def span(pod: Json) -> tuple[datetime, datetime]:
    """When the container of a pod that has ended was started and when it ended."""
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return datetime.fromisoformat(ended["startedAt"]), datetime.fromisoformat(ended["finishedAt"])


def test_a_job_completes_by_as_many_pods_at_a_time_as_it_may(kube: KubeLab) -> None:
    """Four pods, two at a time."""
    apply(kube, "Job", "sums", job("sums", "sleep 2; echo done", completions=4, parallelism=2),
          "batch/v1")  # fmt: skip
    most = 0

    def complete() -> bool:
        nonlocal most
        _, found = kube.api("GET", f"{JOBS}/sums")
        most = max(most, found["status"].get("active", 0))
        return bool(found["status"].get("succeeded") == 4 and found["status"]["completionTime"])

    kube.wait(complete, "the job is complete")
    assert most == 2
    pods = kube.items(PODS, "app=sums")
    spans = [span(pod) for pod in pods]
    assert [pod["status"]["phase"] for pod in pods] == ["Succeeded"] * 4
    for start, _ in spans:
        assert sum(begin <= start < end for begin, end in spans) <= 2
    assert [kube.kubectl("logs", pod["metadata"]["name"]) for pod in pods] == ["done\n"] * 4
    assert not any(map(is_ready, pods))


def test_a_job_that_fails_is_tried_again_to_its_limit(kube: KubeLab) -> None:
    """By new pods, after a pause; then it says why it is given up."""
    apply(kube, "Job", "vain", job("vain", "echo in vain; exit 3", backoffLimit=1), "batch/v1")

    def failed() -> Json:
        _, found = kube.api("GET", f"{JOBS}/vain")
        listed = found["status"].get("conditions") or ()
        return next((dict(one) for one in listed if one["type"] == "Failed"), {})

    assert kube.wait(failed, "the job has failed")["reason"] == "BackoffLimitExceeded"
    pods = kube.items(PODS, "app=vain")
    codes = [
        pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] for pod in pods
    ]
    assert codes == [3, 3]
    (first, ended), (second, _) = sorted(map(span, pods))
    assert first <= ended <= second
