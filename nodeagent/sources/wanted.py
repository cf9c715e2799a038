"""The two sources of pods as the manager asks them (``pods.manager.Source``)."""

from collections.abc import Mapping
from functools import partial

from nodeagent.pods.manager import Wanted
from nodeagent.sources.apipods import ApiPods
from nodeagent.sources.files import ManifestSource


class ManifestPods:
    """``Source``: the static pods."""

    def __init__(self, source: ManifestSource) -> None:
        self._source = source

    @property
    def listed(self) -> bool:
        """Whether the manifests were read."""
        return self._source.listed

    def wanted(self) -> Mapping[str, Wanted]:
        """The static pods by uid."""
        return {
            uid: Wanted(one.pod, partial(one.raw.__getitem__, "spec"), checked=True)
            for uid, one in self._source.pods.items()
        }


class BoundPods:
    """``Source``: the pods that the API server binds to this node."""

    def __init__(self, pods: ApiPods) -> None:
        self._pods = pods

    @property
    def listed(self) -> bool:
        """Whether the API server has listed them."""
        return self._pods.listed

    def wanted(self) -> Mapping[str, Wanted]:
        """The pods by uid."""
        return {
            uid: Wanted(one.pod, lambda one=one: one.raw)  # type: ignore[misc]
            for uid, one in self._pods.pods().items()
        }
