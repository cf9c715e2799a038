"""Images: what is here, what is pulled and with which credentials, and what cannot be had."""

import base64
import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from lab.control import socket_in
from tests.engine.pods import DEADLINE, IMAGE, ApiError, PodWorld, Raw, sleeper, state, status_of
from tests.fakes.registry import Registry, serving
from tests.support.netns import eventually

REGISTRY = "127.0.0.1:5000"
"""Docker speaks plain HTTP to registries at loopback addresses."""
NOWHERE = "127.0.0.1:5999/nothing:1"


@pytest.fixture
def registry(pods: PodWorld) -> Iterator[Registry]:
    """A registry on the node that serves app:1; what was pulled is removed from Docker."""
    archive = pods.node_run_bytes("docker", "save", IMAGE)
    made = Registry()
    made.add("app:1", archive, {"made": "one"})
    listening = socket_in(pods.spec.nodes[0].netns)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with listening, serving(made, listening, ("127.0.0.1", 5000)):
        yield made
        pods.clean()
    for entry in pods.docker("GET", "/images/json"):
        for tag in entry["RepoTags"] or ():
            if tag.startswith(REGISTRY):
                pods.docker("DELETE", f"/images/{tag}?force=1")


def application(**fields: Any) -> Raw:
    return sleeper(image=f"{REGISTRY}/app:1", **fields)


def have(pods: PodWorld, image: str) -> bool:
    with contextlib.suppress(ApiError):
        return bool(pods.docker("GET", f"/images/{image}/json"))
    return False


def credentials(user: str, password: str) -> str:
    """A ``.dockerconfigjson`` for the registry."""
    code = base64.b64encode(f"{user}:{password}".encode()).decode()
    return json.dumps({"auths": {REGISTRY: {"auth": code}}})


# --- without a registry ---


@pytest.mark.parametrize("policy", ["Never", "IfNotPresent"])
def test_an_image_that_is_here_is_not_asked_for(pods: PodWorld, policy: str) -> None:
    """No registry has it."""
    pods.create("here", [sleeper(imagePullPolicy=policy)])
    pods.ready("here")
    assert pods.event("here", "Pulled", "is here already")
    assert not [e for e in pods.events("here") if e["reason"] == "Pulling"]


def test_an_image_that_is_missing_and_never_pulled_is_named(pods: PodWorld) -> None:
    """ErrImageNeverPull; the pod starts once the image has come by other means."""
    image = "barenode/later:lab"
    pods.create("never", [sleeper(image=image, imagePullPolicy="Never")])
    pod = pods.waiting("never", "ErrImageNeverPull")
    assert image in state(pod)["waiting"]["message"]
    assert pod["status"]["phase"] == "Pending"
    assert pods.event("never", "ErrImageNeverPull", image)["type"] == "Warning"
    pods.node_run("docker", "tag", IMAGE, image)
    try:
        pod = pods.ready("never")
        assert status_of(pod)["restartCount"] == 0
        pods.clean()
    finally:
        pods.node_run("docker", "rmi", image)


def test_a_pull_that_fails_is_told_and_tried_ever_more_slowly(pods: PodWorld) -> None:
    """ErrImagePull, then ImagePullBackOff, with the registry's answer; an event names the image."""
    pods.create("absent", [sleeper(image=NOWHERE), sleeper("other")])
    pods.waiting("absent", "ErrImagePull", "ImagePullBackOff")
    pod = pods.waiting("absent", "ImagePullBackOff")
    assert NOWHERE in state(pod)["waiting"]["message"]
    assert pods.event("absent", "Pulling", NOWHERE)
    event = pods.event("absent", "Failed", NOWHERE)
    assert event["type"] == "Warning"
    assert "refused" in event["message"]
    pod = pods.wait("absent", lambda p: "running" in state(p, "other"), "the other one runs")
    assert pod["status"]["phase"] == "Pending"


def test_a_name_that_is_none_is_refused(pods: PodWorld) -> None:
    """InvalidImageName: nothing can mend it but another pod."""
    pods.create("bad", [sleeper(image="Not/An Image")])
    pod = pods.wait("bad", lambda p: "InvalidImageName" in json.dumps(p["status"]), "it is told")
    assert "Not/An Image" in json.dumps(pod["status"])
    assert pods.event("bad", "InspectFailed", "Not/An Image")["type"] == "Warning"


# --- from a registry ---


def test_an_image_is_pulled_once_and_then_here(pods: PodWorld, registry: Registry) -> None:
    """IfNotPresent asks for it the first time only; the status has the registry's digest."""
    pods.create("first", [application()])
    pod = pods.ready("first")
    assert pods.event("first", "Pulling")
    assert pods.event("first", "Pulled", "pulled in")
    assert status_of(pod)["imageID"].startswith(f"docker-pullable://{REGISTRY}/app@sha256:")
    assert status_of(pod)["image"] == f"{REGISTRY}/app:1"
    asked = len(registry.asked)
    pods.create("second", [application()])
    pods.ready("second")
    assert len(registry.asked) == asked


def test_policy_always_finds_what_is_new_under_an_old_name(
    pods: PodWorld, registry: Registry
) -> None:
    """The next pod gets the newer image, the one that runs keeps its own."""
    pods.create("old", [application(imagePullPolicy="Always")])
    pods.ready("old")
    old = pods.container("old")["Image"]
    registry.add("app:1", pods.node_run_bytes("docker", "save", IMAGE), {"made": "two"})
    pods.create("new", [application(imagePullPolicy="Always")])
    pods.ready("new")
    new = pods.container("new")
    assert new["Image"] != old
    assert new["Config"]["Labels"]["made"] == "two"
    assert pods.container("old")["Image"] == old


def test_containers_that_want_the_same_image_share_one_pull(
    pods: PodWorld, registry: Registry
) -> None:
    """Three pods at once; the layers are fetched by one of them."""
    for name in ("a", "b", "c"):
        pods.create(name, [application()])
    for name in ("a", "b", "c"):
        pods.ready(name)
    blobs = [path for path, _ in registry.asked if "/blobs/" in path]
    assert len(blobs) == len(set(blobs))


def test_a_private_image_needs_the_secret_of_the_pod(pods: PodWorld, registry: Registry) -> None:
    """Without it the registry's refusal is shown, with it the image comes."""
    registry.user, registry.password = "reader", "s3cret"
    pods.create("stranger", [application()])
    pods.waiting("stranger", "ErrImagePull", "ImagePullBackOff")
    message = pods.event("stranger", "Failed")["message"]
    assert "s3cret" not in message
    assert "unauthorized" in message or "no basic auth credentials" in message
    assert not registry.asked
    pods.secret(
        "regcred", {".dockerconfigjson": credentials("reader", "s3cret")},
        "kubernetes.io/dockerconfigjson",
    )  # fmt: skip
    pods.create("friend", {"imagePullSecrets": [{"name": "regcred"}],
                           "containers": [application()]})  # fmt: skip
    pods.ready("friend")
    assert set(registry.pulls()) == {"reader"}


def test_a_secret_that_comes_later_or_is_wrong_is_told(pods: PodWorld, registry: Registry) -> None:
    """FailedToRetrieveImagePullSecret names it; the pull is tried again when it is right."""
    registry.user, registry.password = "reader", "s3cret"
    pods.create("waits", {"imagePullSecrets": [{"name": "regcred"}],
                          "containers": [application()]})  # fmt: skip
    assert "regcred" in pods.event("waits", "FailedToRetrieveImagePullSecret")["message"]
    pods.waiting("waits", "ErrImagePull", "ImagePullBackOff")
    for password in ("wrong", "s3cret"):
        pods.secret(
            "regcred", {".dockerconfigjson": credentials("reader", password)},
            "kubernetes.io/dockerconfigjson",
        )  # fmt: skip
    pods.ready("waits")


def test_a_missing_tag_is_told_with_the_registrys_answer(
    pods: PodWorld, registry: Registry
) -> None:
    """And the image is had as soon as the registry has it."""
    pods.create("soon", [sleeper(image=f"{REGISTRY}/app:2")])
    assert "manifest unknown" in pods.event("soon", "Failed")["message"].lower()
    registry.add("app:2", pods.node_run_bytes("docker", "save", IMAGE), {"made": "later"})
    pods.ready("soon")
    eventually(lambda: have(pods, f"{REGISTRY}/app:2"), "it is here", deadline=DEADLINE)
