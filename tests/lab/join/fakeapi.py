"""An API server that keeps objects and can fail, in place of lab.join.api.Api."""

from base64 import b64encode
from collections.abc import Callable
from copy import deepcopy
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from hostkit.kube.config import KubeConfig
from hostkit.kube.errors import Conflict, KubeUnavailable, NotFound
from lab.join.api import Api, Raw

CONFIG = KubeConfig(("https://198.18.0.2:6443",))


class FakeApi(Api):
    """Objects by their path. *before* is called with method and path; what it raises is raised."""

    def __init__(self, before: Callable[[str, str], None] = lambda _method, _path: None) -> None:
        super().__init__(CONFIG)
        self.objects: dict[str, Raw] = {}
        self.calls: list[tuple[str, str]] = []
        self._before = before
        self._version = 0

    async def __aenter__(self) -> "FakeApi":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    async def call(self, method: str, path: str, body: Raw | None = None, kind: str = "") -> Raw:
        """See lab.join.api.Api; a PATCH is a merge patch."""
        self._before(method, path)
        self.calls.append((method, path))
        where = urlsplit(path).path
        document = _stored(body or {})
        if method == "POST":
            where = f"{where}/{document['metadata']['name']}"
            if where in self.objects:
                raise Conflict(409, "AlreadyExists", f"{where} is there")
            return self._keep(where, document)
        if method == "GET" and where.rpartition("/")[2].endswith("s"):
            found = [one for at, one in self.objects.items() if at.rpartition("/")[0] == where]
            return deepcopy({"items": found})
        if where not in self.objects:
            raise NotFound(404, "NotFound", f"there is no {where}")
        if method == "DELETE":
            return self.objects.pop(where)
        if method == "PUT":
            return self._keep(where, document)
        if method == "PATCH":
            return self._keep(where, merged(self.objects[where], document))
        return deepcopy(self.objects[where])

    def _keep(self, where: str, document: Raw) -> Raw:
        self._version += 1
        version = {"resourceVersion": str(self._version)}
        self.objects[where] = {**document, "metadata": {**document["metadata"], **version}}
        return deepcopy(self.objects[where])


def _stored(document: Raw) -> Raw:
    """Text of a Secret becomes base64."""
    if "stringData" not in document:
        return deepcopy(document)
    kept = {key: value for key, value in document.items() if key != "stringData"}
    data = {k: b64encode(v.encode()).decode() for k, v in document["stringData"].items()}
    return {**kept, "data": data}


def merged(found: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return deepcopy(patch)
    made = dict(found) if isinstance(found, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = merged(made.get(key), value)
    return made


def away() -> KubeUnavailable:
    """No server answers."""
    return KubeUnavailable({CONFIG.servers[0]: "Connection refused"})
