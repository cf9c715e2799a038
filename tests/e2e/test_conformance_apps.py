"""Conformance: controllers and the node: replicas, adoption, rolling updates, daemons, jobs."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.conformance import Space, case, pod, space_of, url
from tests.support.kubelab import KubeLab, is_ready
from tests.support.realnode import container
from tests.support.services import Json

pytestmark = pytest.mark.e2e

SERVE = "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"
PROBE = {"httpGet": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 10}


@pytest.fixture(scope="module")
def space(kube: KubeLab) -> Iterator[Space]:
    """The controllers of this module."""
    with space_of(kube, __name__) as made:
        yield made


def template(app: str, *containers: Json, **spec: Any) -> Json:
    """Pods with the label ``app``."""
    made = pod("", *containers, **spec)
    return {"metadata": {"labels": {"app": app}}, "spec": made["spec"]}


def controller(kind: str, app: str, *containers: Json, **spec: Any) -> Json:
    """A controller of these pods, called as they are labelled."""
    selector: Json = {"app": app}
    if kind != "ReplicationController":
        selector = {"matchLabels": selector}
    made = {"selector": selector, "template": template(app, *containers), **spec}
    return {"kind": kind, "metadata": {"name": app}, "spec": made}


def ready(space: Space, app: str, count: int) -> list[Json]:
    """The pods of *app* once so many are ready."""
    return space.kube.ready_pods(f"app={app}", count, space.namespace)


def owner(found: Json) -> tuple[str, str]:
    """Kind and name of a pod's controller."""
    owners = [o for o in found["metadata"].get("ownerReferences", ()) if o.get("controller")]
    return (owners[0]["kind"], owners[0]["name"]) if owners else ("", "")


def status(space: Space, kind: str, name: str, holds: Callable[[Json], Any], what: str) -> Json:
    """An object once its status is so."""

    def look() -> Json:
        found = space.get(kind, name)
        assert holds(found.get("status", {})), found
        return found

    return space.kube.wait(look, f"{kind} {name}: {what}")


# --- replicas ---

WEB = container(SERVE, readinessProbe=PROBE)


@case(
    "[sig-apps] ReplicationController should serve a basic image on each replica with a public "
    "image [Conformance]",
    "[sig-apps] ReplicaSet should serve a basic image on each replica with a public image "
    "[Conformance]",
    needs=[controller("ReplicationController", "rc", WEB, replicas=2),
           controller("ReplicaSet", "rs", WEB, replicas=2)],
)  # fmt: skip
def test_each_replica_serves(space: Space) -> None:
    host = space.kube.workers[0]
    for app in ("rc", "rs"):
        for one in ready(space, app, 2):
            url = f"http://{one['status']['podIP']}:8080/"
            said = space.kube.wait(functools.partial(space.kube.curl, host, url), f"{url} answers")
            assert said.strip() == one["metadata"]["name"]


@case(
    "[sig-apps] ReplicationController should adopt matching pods on creation [Conformance]",
    "[sig-apps] ReplicationController should release no longer matching pods [Conformance]",
    "[sig-apps] ReplicaSet should adopt matching pods on creation and release no longer matching "
    "pods [Conformance]",
    needs=[pod("orphan-rc", labels={"app": "adopt-rc"}), pod("orphan-rs",
                                                             labels={"app": "adopt-rs"})],
)  # fmt: skip
def test_pods_are_adopted_and_released_as_their_labels_say(space: Space) -> None:
    """What runs in them goes on."""
    for kind, short in (("ReplicationController", "rc"), ("ReplicaSet", "rs")):
        name, app = f"orphan-{short}", f"adopt-{short}"
        before = space.ready(name)["status"]["containerStatuses"][0]["containerID"]
        space.create(controller(kind, app, replicas=1))
        space.until(name, lambda one: owner(one) == (kind, app), "is adopted")  # noqa: B023 - waited for here
        space.patch("Pod", name, {"metadata": {"labels": {"app": "free"}}})
        found = space.until(name, lambda one: owner(one) == ("", ""), "is released")
        assert found["status"]["containerStatuses"][0]["containerID"] == before
        assert ready(space, app, 1)[0]["metadata"]["name"] != name


@case(
    "[sig-apps] ReplicationController should surface a failure condition on a common issue like "
    "exceeded quota [Conformance]",
)
def test_a_quota_that_is_exceeded_is_told_and_its_end_too(space: Space) -> None:
    """The quota counts pods that ask for something, which no others here do."""
    space.create({
        "kind": "ResourceQuota", "metadata": {"name": "few"},
        "spec": {"hard": {"pods": "2", "requests.cpu": "1"}, "scopes": ["NotBestEffort"]},
    })  # fmt: skip
    asking = container(resources={"requests": {"cpu": "1m"}})
    made = controller("ReplicationController", "quota", asking, replicas=3)
    space.kube.wait(
        lambda: space.get("ResourceQuota", "few").get("status", {}).get("hard"), "it is counted"
    )
    # The API server hears of quotas by a watch of its own: until then it admits every pod.
    large = pod("large", container(resources={"requests": {"cpu": "2"}}))

    def is_kept_to() -> bool:
        said = space.kube.api("POST", url(space.namespace, "Pod"), large, dryRun="All")
        return said[0] == 403 and "exceeded quota: few" in said[1]["message"]

    space.kube.wait(is_kept_to, "the API server keeps to it")
    space.create(made)

    def failure(found: Json) -> bool:
        return any(c["type"] == "ReplicaFailure" for c in found.get("conditions", ()))

    status(space, "ReplicationController", "quota", failure, "a failure is told")
    space.patch("ReplicationController", "quota", {"spec": {"replicas": 2}})
    status(space, "ReplicationController", "quota", lambda one: not failure(one), "it is over")
    ready(space, "quota", 2)


# --- deployments ---


def revised(space: Space, kind: str, app: str, word: str) -> None:
    """Change the template of a controller."""
    change = {"template": {"metadata": {"annotations": {"revision": word}}}}
    space.patch(kind, app, {"spec": change})


def revisions(space: Space, app: str) -> list[str]:
    """The revision of each pod."""
    found = space.find("Pod", labelSelector=f"app={app}")
    return [one["metadata"].get("annotations", {}).get("revision", "") for one in found]


@case(
    "[sig-apps] Deployment RollingUpdateDeployment should delete old pods and create new ones "
    "[Conformance]",
    needs=[controller("Deployment", "rolling", WEB, replicas=2, strategy={
        "type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}})],
)  # fmt: skip
def test_a_rolling_update_replaces_the_pods_and_never_has_too_few(space: Space) -> None:
    ready(space, "rolling", 2)
    revised(space, "Deployment", "rolling", "new")
    counts: list[int] = []

    def over() -> bool:
        found = space.find("Pod", labelSelector="app=rolling")
        counts.append(sum(map(is_ready, found)))
        return revisions(space, "rolling") == ["new", "new"]

    space.kube.wait(over, "both pods are new")
    assert min(counts) >= 2
    ready(space, "rolling", 2)


@case(
    "[sig-apps] Deployment RecreateDeployment should delete old pods and create new ones "
    "[Conformance]",
    needs=[controller("Deployment", "recreated", replicas=2, strategy={"type": "Recreate"})],
)
def test_a_recreation_ends_the_old_pods_before_it_begins_new_ones(space: Space) -> None:
    ready(space, "recreated", 2)
    revised(space, "Deployment", "recreated", "new")
    mixed: list[list[str]] = []

    def over() -> bool:
        found = revisions(space, "recreated")
        if len(set(found)) > 1:
            mixed.append(found)
        return found == ["new", "new"]

    space.kube.wait(over, "both pods are new")
    assert not mixed, "old and new pods at once"
    ready(space, "recreated", 2)


# --- daemons ---


@case(
    "[sig-apps] Daemon set [Serial] should run and stop simple daemon [Conformance]",
    "[sig-apps] Daemon set [Serial] should update pod when spec was updated and update strategy "
    "is RollingUpdate [Conformance]",
    needs=[controller("DaemonSet", "daemon", updateStrategy={"type": "RollingUpdate"})],
)
def test_a_daemon_runs_on_each_worker_comes_back_and_is_updated(space: Space) -> None:
    count = len(space.kube.workers)

    def nodes(found: list[Json]) -> list[str]:
        return sorted(one["spec"]["nodeName"] for one in found)

    found = ready(space, "daemon", count)
    assert nodes(found) == sorted(space.kube.workers)
    victim = found[0]["metadata"]["name"]
    space.delete("Pod", victim)
    space.gone(victim)
    assert nodes(ready(space, "daemon", count)) == sorted(space.kube.workers)
    revised(space, "DaemonSet", "daemon", "new")
    space.kube.wait(lambda: revisions(space, "daemon") == ["new"] * count, "all are updated")
    ready(space, "daemon", count)


# --- jobs ---


@case(
    "[sig-apps] Job should run a job to completion when tasks sometimes fail and are locally "
    "restarted [Conformance]",
    "[sig-apps] Job should delete a job [Conformance]",
    needs=[{"kind": "Job", "metadata": {"name": "job"}, "spec": {
        "completions": 3, "parallelism": 2, "template": template(
            "job", container("[ -e /v/again ] || { touch /v/again; exit 1; }",
                             volumeMounts=[{"name": "v", "mountPath": "/v"}]),
            volumes=[{"name": "v", "emptyDir": {}}], restartPolicy="OnFailure")}}],
)  # fmt: skip
def test_a_job_s_tasks_are_tried_again_on_their_node_and_all_succeed(space: Space) -> None:
    status(space, "Job", "job", lambda one: one.get("succeeded") == 3, "all tasks have succeeded")
    pods = space.find("Pod", labelSelector="app=job")
    assert [one["status"]["phase"] for one in pods] == ["Succeeded"] * 3
    assert {one["status"]["containerStatuses"][0]["restartCount"] for one in pods} == {1}
    space.delete_with_pods("Job", "job")
    space.kube.wait(lambda: not space.find("Pod", labelSelector="app=job"), "its pods are gone")
