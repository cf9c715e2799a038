"""API servers of several ages that hold whole objects, as ``tests.fakes.kube`` holds specs."""

import copy
from typing import Any

from aiohttp import web

from tests.fakes.kube import FakeKube, Json, Past, Refused, Store, Verb

SERVICES = "/api/v1/services"
ENDPOINTS = "/api/v1/endpoints"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
BETA_SLICES = "/apis/discovery.k8s.io/v1beta1/endpointslices"


class ObjectStore(Store):
    """A store of documents; each is kept as it is given, but for its resource version."""

    def set(self, path: str, document: Json, name: str = "") -> None:
        """Create or replace *document*, known as *name* (its own namespace and name if empty)."""
        known = name or name_of(document)
        self._add("MODIFIED" if known in self.at(path, self.version) else "ADDED",
                  path, known, document)  # fmt: skip

    def remove(self, path: str, name: str) -> None:
        """Delete what is known as *name*."""
        self._add("DELETED", path, name, self.at(path, self.version)[name])

    def _add(self, kind: str, path: str, name: str, document: Json) -> None:
        self.version += 1
        body = copy.deepcopy(document)
        if isinstance(body.get("metadata"), dict):
            body["metadata"]["resourceVersion"] = str(self.version)
        self.history.append(Past(self.version, kind, path, name, body))
        self.wake()


def name_of(document: Json) -> str:
    """``namespace/name``."""
    meta = document["metadata"]
    return f"{meta['namespace']}/{meta['name']}"


class AgedKube(FakeKube):
    """A server that serves slices in one version, ``v1`` or ``v1beta1``, or (``""``) not at all.

    What it does not serve is not found.
    """

    def __init__(self, store: Store | None = None, *, slices: str = "v1", **options: Any) -> None:
        super().__init__(store, **options)
        self._slices = ""
        self.serve(slices)

    def serve(self, slices: str) -> None:
        """Become a server of another age."""
        self._slices = slices
        groups = []
        if slices:
            found = {"groupVersion": f"discovery.k8s.io/{slices}", "version": slices}
            groups = [{"name": "discovery.k8s.io", "versions": [found]}]
        self.groups = {"/api": {"versions": ["v1"]}, "/apis": {"groups": groups}}

    async def _answer(self, verb: Verb, request: web.Request) -> web.StreamResponse:
        if request.path in self._absent():
            text = "the server could not find the requested resource"
            return Refused(404, "NotFound", text).answer()
        return await super()._answer(verb, request)

    def _absent(self) -> set[str]:
        served = {"v1": {SLICES}, "v1beta1": {BETA_SLICES}, "": set()}[self._slices]
        return {SLICES, BETA_SLICES} - served
