"""Objects at an API server, by whatever credential: the few calls that joining needs."""

from types import TracebackType
from typing import Any

import msgspec

from hostkit.kube.config import KubeConfig
from hostkit.kube.errors import Conflict, KubeError, NotFound
from hostkit.kube.transport import KubeClient
from lab.errors import LabError

Raw = dict[str, Any]

AGENT = "barenode"


class Api:
    """The API servers that *config* names; to be entered with ``async with``.

    Methods raise KubeError, whose sentences say what the server answered, and LabError for an
    answer that is no object.
    """

    def __init__(self, config: KubeConfig) -> None:
        self._config = config
        self._client: KubeClient | None = None

    async def __aenter__(self) -> "Api":
        self._client = KubeClient(self._config, user_agent=AGENT)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def call(self, method: str, path: str, body: Raw | None = None, kind: str = "") -> Raw:
        """The object that the server answers. *kind*: content type, a merge patch for PATCH."""
        if self._client is None:
            raise LabError("the API is used outside its context")
        usual = "application/merge-patch+json" if method == "PATCH" else "application/json"
        answer = await self._client.request(
            method,
            path,
            body=None if body is None else msgspec.json.encode(body),
            content_type=kind or usual,
        )
        try:
            return msgspec.json.decode(answer, type=Raw)
        except msgspec.MsgspecError as error:
            raise LabError(f"{method} {path}: the answer is no object: {error}") from error

    async def get(self, path: str) -> Raw | None:
        """The object at *path*, None when there is none."""
        try:
            return await self.call("GET", path)
        except NotFound:
            return None

    async def ensure(self, collection: str, document: Raw) -> Raw:
        """Create *document* in *collection*; one of its name that is there gets its content."""
        try:
            return await self.call("POST", collection, document)
        except Conflict as error:
            name = document["metadata"]["name"]
            found = await self.get(f"{collection}/{name}")
            if found is None:
                raise error from None
            version = found["metadata"].get("resourceVersion", "")
            meta = {**document["metadata"], "resourceVersion": version}
            return await self.call("PUT", f"{collection}/{name}", {**document, "metadata": meta})


__all__ = ["Api", "KubeError", "Raw"]
