"""Applications of docs/examples: data that outlive a pod, a JSON document for the REST API."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kubelab import KubeLab

pytestmark = pytest.mark.e2e

EXAMPLES = Path("docs/examples")
NOTES = "/var/local/notes"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"


@pytest.fixture
def notes(kube: KubeLab) -> Iterator[str]:
    """The host whose directory the volume is; the directory is there, and goes with the test."""
    manifest = EXAMPLES / "volume/volume.yaml"
    host = "node1"
    kube.exec(host, "mkdir", "-p", NOTES)
    kube.apply(manifest)
    try:
        yield host
    finally:
        kube.delete_all()
        kube.api("DELETE", "/api/v1/persistentvolumes/notes")
        kube.exec(host, "rm", "-r", NOTES)


def test_data_of_a_claim_survive_the_pod_and_are_read_by_its_successor(
    kube: KubeLab, notes: str
) -> None:
    """The claim is bound to a directory of one host: the successor goes there, too."""
    (first,) = kube.ready_pods("app=notes", 1)
    claim = kube.json("get", "persistentvolumeclaim", "notes")
    assert (claim["status"]["phase"], claim["spec"]["volumeName"]) == ("Bound", "notes")
    address = kube.json("get", "service", "notes")["spec"]["clusterIP"]

    def read() -> list[str]:
        return kube.curl(kube.workers[1], f"http://{address}/").split()

    one = first["metadata"]["name"]
    kube.wait(lambda: read() == [one], "the pod serves what it wrote")

    kube.kubectl("delete", "pod", one)
    (second,) = kube.ready_pods("app=notes", 1)
    two = second["metadata"]["name"]
    assert two != one
    assert {pod["spec"]["nodeName"] for pod in (first, second)} == {notes}
    kube.wait(lambda: read() == [one, two], "its successor serves what both wrote")
    assert kube.exec(notes, "cat", f"{NOTES}/index.html").split() == [one, two]


def test_an_application_posted_as_one_json_document_is_scaled_to_three_and_back(
    kube: KubeLab,
) -> None:
    """With nothing but HTTP and JSON."""
    try:
        document = json.loads((EXAMPLES / "app/app.json").read_text())
        status, _ = kube.api("POST", DEPLOYMENTS, document)
        assert status == 201
        status, service = kube.api(
            "POST", "/api/v1/namespaces/default/services",
            json.loads((EXAMPLES / "app/service.json").read_text()),
        )  # fmt: skip
        assert status == 201
        base = f"http://{service['spec']['clusterIP']}/"
        (first,) = kube.ready_pods("app=hello", 1)

        def answering(names: set[str]) -> bool:
            seen = {kube.curl(kube.workers[0], base) for _ in range(12)}
            return seen == {f"hello from {name}\n" for name in names}

        assert kube.wait(lambda: answering({first["metadata"]["name"]}), "the first pod answers")
        status, scale = kube.api("PATCH", f"{DEPLOYMENTS}/hello/scale", {"spec": {"replicas": 3}})
        assert (status, scale["spec"]["replicas"]) == (200, 3)
        pods = {pod["metadata"]["name"] for pod in kube.ready_pods("app=hello", 3)}
        assert first["metadata"]["name"] in pods
        kube.wait(lambda: answering(pods), "all three answer at one address")

        def back() -> bool:
            # Refused when the Deployment's status changes between the two.
            status, scale = kube.api("GET", f"{DEPLOYMENTS}/hello/scale")
            assert (status, scale["status"]["replicas"]) == (200, 3)
            scale["spec"]["replicas"] = 1
            status, _ = kube.api("PUT", f"{DEPLOYMENTS}/hello/scale", scale)
            return status == 200

        kube.wait(back, "it is scaled back")
        (left,) = kube.ready_pods("app=hello", 1)
        kube.wait(lambda: answering({left["metadata"]["name"]}), "the one left answers, alone")
    finally:
        kube.delete_all()
