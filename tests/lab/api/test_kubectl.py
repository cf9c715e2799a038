"""What an operator types: kubectl against the lab's API server, on a fake etcd."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.api.objects import StatusError
from lab.api.protobuf import MAGIC, decode
from tests.lab.api.serving import Api, serving

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: nginx, image: "nginx:1", ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, nodePort: 30061}]}
"""


class Kubectl:
    """Runs kubectl with files in *directory*."""

    def __init__(self, api: Api, directory: Path) -> None:
        self._server = str(api.session._base_url)
        self._directory = directory

    async def __call__(self, line: str, manifest: str = "", *more: str) -> tuple[int, str]:
        """Exit status and output of ``kubectl LINE``; *manifest* comes by standard input."""
        environment = {"HOME": str(self._directory), "PATH": "/usr/bin:/bin"}
        process = await asyncio.create_subprocess_exec(
            "kubectl", f"--server={self._server}", *line.split(), *more,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT, env=environment, cwd=self._directory,
        )  # fmt: skip
        output, _ = await process.communicate(manifest.encode())
        return process.returncode or 0, output.decode()

    async def good(self, line: str, manifest: str = "", *more: str) -> str:
        """The output of what has to succeed."""
        status, output = await self(line, manifest, *more)
        assert status == 0, output
        return output


async def test_manifests_are_applied_changed_and_deleted(tmp_path: Path) -> None:
    """apply twice, get, scale, label, patch, replace, expose, describe, delete."""
    async with serving() as api:
        kubectl = Kubectl(api, tmp_path)
        text = await kubectl.good("apply -f -", WEB)
        assert text == "deployment.apps/web created\nservice/web created\n"
        text = await kubectl.good("apply -f -", WEB)
        assert text == "deployment.apps/web unchanged\nservice/web unchanged\n"
        assert "service/web configured" in await kubectl.good(
            "apply -f -", WEB.replace("port: 80,", "port: 81,")
        )
        assert "80:30061/TCP" not in await kubectl.good("get svc")
        assert await kubectl.good("scale deployment web --replicas=4")
        assert "0/4" in await kubectl.good("get all -o wide")
        await kubectl.good("label svc web tier=front")
        assert (await kubectl.good("get svc -l tier=front -o name")) == "service/web\n"
        await kubectl.good("annotate svc web note=x")
        patch = json.dumps({"spec": {"ports": [{"port": 81, "targetPort": 8080}]}})
        await kubectl.good("patch svc web -p", "", patch)
        assert "8080/TCP" in await kubectl.good("describe svc web")
        await kubectl.good("expose deployment web --name=second --port=8000")
        await kubectl.good("run one --image=busybox:1 -- sleep 5")
        assert "Pending" in await kubectl.good("describe pod one")
        await kubectl.good("delete pod one")
        await kubectl.good("delete deployment/web svc/web svc/second")
        assert "No resources found" in await kubectl.good("get deployment,pods")


async def test_objects_are_created_by_name(tmp_path: Path) -> None:
    """kubectl sends these as protobuf."""
    async with serving() as api:
        kubectl = Kubectl(api, tmp_path)
        await kubectl.good("create namespace shop")
        await kubectl.good("create -n shop deployment d --image=nginx:1 --port=80 --replicas=0")
        await kubectl.good("create -n shop configmap c --from-literal=a=b")
        await kubectl.good("create -n shop secret generic s --from-literal=a=b")
        await kubectl.good("create -n shop service nodeport web --tcp=80:8080 --node-port=30099")
        await kubectl.good("create -n shop serviceaccount robot")
        text = await kubectl.good("create -n shop token robot --audience=vault --duration=1h")
        assert text.startswith("lab.")
        shop = "/api/v1/namespaces/shop"
        _, made = await api.call("GET", "/apis/apps/v1/namespaces/shop/deployments/d")
        (container,) = made["spec"]["template"]["spec"]["containers"]
        assert (made["spec"]["replicas"], container["ports"]) == (
            0, [{"containerPort": 80, "protocol": "TCP"}],
        )  # fmt: skip
        _, made = await api.call("GET", f"{shop}/services/web")
        (port,) = made["spec"]["ports"]
        assert (port["targetPort"], port["nodePort"], port["name"]) == (8080, 30099, "80-8080")
        _, made = await api.call("GET", f"{shop}/secrets/s")
        assert made["data"] == {"a": "Yg=="}


@given(data=st.binary(max_size=60))
def test_bytes_that_are_no_such_protobuf_are_refused(data: bytes) -> None:
    """With 415, whatever they are."""
    with pytest.raises(StatusError) as caught:
        decode(MAGIC + data)
    assert caught.value.code == 415


async def test_mistakes_are_explained_in_kubes_words(tmp_path: Path) -> None:
    """Unknown fields, values out of range, names that are taken or not there."""
    async with serving() as api:
        kubectl = Kubectl(api, tmp_path)
        status, text = await kubectl("create -f -", WEB.replace("selector: {app", "selectr: {app"))
        assert status == 1 and 'unknown field "spec.selectr"' in text
        status, text = await kubectl("create -f -", WEB.replace("30061", "80"))
        assert status == 1 and "The range of valid ports is 30000-32767" in text
        status, text = await kubectl("create -f -", WEB)
        assert 'deployments.apps "web" already exists' in text
        status, text = await kubectl("get pods nope")
        assert (status, text) == (1, 'Error from server (NotFound): pods "nope" not found\n')


async def test_a_watch_shows_changes_as_they_come(tmp_path: Path) -> None:
    """kubectl wait returns when what it waits for happens."""
    async with serving() as api:
        kubectl = Kubectl(api, tmp_path)
        await kubectl.good("create -f -", WEB)
        waiting = asyncio.create_task(kubectl.good("wait --for=delete service/web --timeout=60s"))
        await kubectl.good("delete service web")
        await waiting
