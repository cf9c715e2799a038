"""Static pods for tests."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nodeagent.pods.model import Pod
from nodeagent.sources.manifests import Manifest, StaticPod, parse


def fine(_pod: Pod, _spec: Mapping[str, Any]) -> Sequence[str]:
    """A check that finds nothing."""
    return ()


def text(name: str, image: str = "nginx") -> str:
    """A manifest of the pod *name*."""
    spec = {"containers": [{"name": "main", "image": image}]}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})


def manifest(content: str, file: str = "a.yaml") -> Manifest:
    """What is in a file on node ``n``."""
    return parse(content.encode(), file, "n", fine)


def static(name: str, image: str = "nginx", file: str = "a.yaml") -> StaticPod:
    """One static pod of node ``n``."""
    return manifest(text(name, image), file).pods[0]
