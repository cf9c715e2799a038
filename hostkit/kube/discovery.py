"""Which APIs a server has."""

import msgspec

from hostkit.kube.errors import KubeUnavailable, NotFound
from hostkit.kube.transport import KubeClient


class _Versions(msgspec.Struct):
    versions: list[str] = []


class _Version(msgspec.Struct, rename="camel"):
    group_version: str = ""


class _Group(msgspec.Struct):
    versions: list[_Version] = []


class _Groups(msgspec.Struct):
    groups: list[_Group] = []


_versions = msgspec.json.Decoder(_Versions)
_groups = msgspec.json.Decoder(_Groups)


async def discover(client: KubeClient) -> frozenset[str]:
    """The group versions served, such as ``v1`` and ``discovery.k8s.io/v1``.

    Raises ApiError, and KubeUnavailable also when the answer makes no sense.
    """
    endpoint, core = await client.get_from("/api")
    try:
        found = set(_versions.decode(core).versions)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KubeUnavailable({endpoint: f"no list of API versions: {error}"}) from error
    try:
        endpoint, groups = await client.get_from("/apis")
    except NotFound:
        # Kubernetes 1.0 has no API groups.
        return frozenset(found)
    try:
        for group in _groups.decode(groups).groups:
            found.update(version.group_version for version in group.versions)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KubeUnavailable({endpoint: f"no list of API groups: {error}"}) from error
    return frozenset(found)
