"""Whether volumes make sense and are of kinds that nodeagent has."""

from collections.abc import Callable, Iterator, Sequence

from nodeagent.pods import checknames as check
from nodeagent.pods.container import FieldRef, ResourceFieldRef
from nodeagent.pods.fieldpath import supported
from nodeagent.pods.model import Pod
from nodeagent.pods.resources import is_known
from nodeagent.pods.volume import (
    ClaimVolume,
    ConfigMapVolume,
    DownwardItem,
    DownwardVolume,
    EmptyDir,
    HostPath,
    KeyToPath,
    NfsVolume,
    ProjectedDownward,
    ProjectedRef,
    ProjectedSource,
    ProjectedVolume,
    SecretVolume,
    ServiceAccountToken,
    Volume,
)

HOST_PATH_TYPES = (
    "", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice",
    "BlockDevice",
)  # fmt: skip
SHORTEST_TOKEN = 600
"""Seconds: the API server grants no shorter ones (``k8s.io/api/authentication/v1``)."""

_SOURCES = {
    "emptyDir": "empty_dir", "hostPath": "host_path", "configMap": "config_map",
    "secret": "secret", "downwardAPI": "downward_api", "projected": "projected",
    "persistentVolumeClaim": "persistent_volume_claim", "nfs": "nfs",
}  # fmt: skip
_PROJECTED = {
    "configMap": "config_map", "secret": "secret", "downwardAPI": "downward_api",
    "serviceAccountToken": "service_account_token",
}  # fmt: skip


def volume_problems(pod: Pod, unknown_kinds: frozenset[int]) -> Iterator[str]:
    """Sentences about ``spec.volumes``.

    *unknown_kinds* are the numbers of volumes with a kind that nodeagent does not have: these are
    told elsewhere.
    """
    volumes = pod.spec.volumes
    yield from check.unique("spec.volumes", (one.name for one in volumes), "the name")
    containers = {one.name for one in (*pod.spec.containers, *pod.spec.init_containers)}
    for number, volume in enumerate(volumes):
        path = f"spec.volumes[{number}]"
        yield from check.label(f"{path}.name", volume.name)
        sources = [name for name, field in _SOURCES.items() if getattr(volume, field) is not None]
        if sources or number not in unknown_kinds:
            yield from check.exactly_one(path, sources, _SOURCES)
        yield from _source(path, volume, containers)


def resource_field_problems(
    path: str, reference: ResourceFieldRef, containers: set[str], *, needs_container: bool
) -> Iterator[str]:
    """Sentences about a resourceFieldRef; in volumes it has to name a container."""
    kind, _, resource = reference.resource.partition(".")
    if kind not in {"limits", "requests"} or not is_known(resource):
        yield (
            f"{path}.resource is {check.shown(reference.resource)}: use limits or requests of "
            "cpu, memory or ephemeral-storage, such as limits.cpu"
        )
    yield from check.amount(f"{path}.divisor", reference.divisor)
    name = reference.container_name
    if name and name not in containers:
        yield f"{path}.containerName {check.shown(name)} is no container of this pod"
    elif needs_container and not name:
        yield f"{path}.containerName is missing: name a container of this pod"


def _source(path: str, volume: Volume, containers: set[str]) -> Iterator[str]:
    for name, field in _SOURCES.items():
        source = getattr(volume, field)
        if isinstance(source, DownwardVolume):
            yield from check.mode(f"{path}.{name}.defaultMode", source.default_mode)
            yield from _downward_items(f"{path}.{name}", source.items, containers)
        elif isinstance(source, ProjectedVolume):
            yield from _projected(f"{path}.{name}", source, containers)
        elif source is not None:
            yield from _CHECKS[type(source)](f"{path}.{name}", source)


def _empty_dir(path: str, source: EmptyDir) -> Iterator[str]:
    if source.medium.startswith("HugePages"):
        yield f"{path}.medium {check.shown(source.medium)} is not supported: use Memory"
    else:
        yield from check.one_of(f"{path}.medium", source.medium, ("", "Memory"))
    if source.size_limit is not None:
        yield from check.amount(f"{path}.sizeLimit", source.size_limit)


def _host_path(path: str, source: HostPath) -> Iterator[str]:
    yield from check.absolute(f"{path}.path", source.path)
    yield from check.one_of(f"{path}.type", source.type, HOST_PATH_TYPES)


def _config_map(path: str, source: ConfigMapVolume) -> Iterator[str]:
    yield from check.subdomain(f"{path}.name", source.name)
    yield from check.mode(f"{path}.defaultMode", source.default_mode)
    yield from _items(path, source.items)


def _secret(path: str, source: SecretVolume) -> Iterator[str]:
    yield from check.subdomain(f"{path}.secretName", source.secret_name)
    yield from check.mode(f"{path}.defaultMode", source.default_mode)
    yield from _items(path, source.items)


def _claim(path: str, source: ClaimVolume) -> Iterator[str]:
    yield from check.subdomain(f"{path}.claimName", source.claim_name)


def _nfs(path: str, source: NfsVolume) -> Iterator[str]:
    if not source.server or source.server.startswith("-") or {*source.server} & {*" \t\n\0/"}:
        yield f"{path}.server is {check.shown(source.server)}: use a host name or an address"
    yield from check.absolute(f"{path}.path", source.path)


def _items(path: str, items: Sequence[KeyToPath]) -> Iterator[str]:
    for number, item in enumerate(items):
        here = f"{path}.items[{number}]"
        yield from check.key(f"{here}.key", item.key)
        yield from check.item_path(f"{here}.path", item.path)
        yield from check.mode(f"{here}.mode", item.mode)
    yield from check.unique(f"{path}.items", (item.path for item in items), "the path")


def _downward_items(
    path: str, items: Sequence[DownwardItem], containers: set[str]
) -> Iterator[str]:
    for number, item in enumerate(items):
        here = f"{path}.items[{number}]"
        yield from check.item_path(f"{here}.path", item.path)
        yield from check.mode(f"{here}.mode", item.mode)
        fields = {"fieldRef": item.field_ref, "resourceFieldRef": item.resource_field_ref}
        yield from check.exactly_one(here, (k for k, v in fields.items() if v), fields)
        if item.field_ref is not None:
            yield from _field(f"{here}.fieldRef", item.field_ref)
        if item.resource_field_ref is not None:
            yield from resource_field_problems(
                f"{here}.resourceFieldRef",
                item.resource_field_ref,
                containers,
                needs_container=True,
            )
    yield from check.unique(f"{path}.items", (item.path for item in items), "the path")


def _field(path: str, reference: FieldRef) -> Iterator[str]:
    # What is known only while the pod runs is not given to files (k8s.io/api/core/v1).
    if not reference.field_path.startswith("metadata.") or not supported(
        reference.field_path, whole=True
    ):
        yield (
            f"{path}.fieldPath is {check.shown(reference.field_path)}: use metadata.name, "
            "namespace, uid, labels or annotations"
        )


def _projected(path: str, source: ProjectedVolume, containers: set[str]) -> Iterator[str]:
    yield from check.mode(f"{path}.defaultMode", source.default_mode)
    for number, one in enumerate(source.sources):
        yield from _projected_source(f"{path}.sources[{number}]", one, containers)


def _projected_source(path: str, one: ProjectedSource, containers: set[str]) -> Iterator[str]:
    fields = {name: getattr(one, field) for name, field in _PROJECTED.items()}
    present = {name: part for name, part in fields.items() if part is not None}
    yield from check.exactly_one(path, present, _PROJECTED)
    for name, part in present.items():
        if isinstance(part, ProjectedRef):
            yield from check.subdomain(f"{path}.{name}.name", part.name)
            yield from _items(f"{path}.{name}", part.items)
        elif isinstance(part, ProjectedDownward):
            yield from _downward_items(f"{path}.{name}", part.items, containers)
        elif isinstance(part, ServiceAccountToken):
            yield from check.item_path(f"{path}.{name}.path", part.path)
            yield from check.between(
                f"{path}.{name}.expirationSeconds", part.expiration_seconds, SHORTEST_TOKEN, 2**32
            )


_CHECKS: dict[type, Callable[..., Iterator[str]]] = {
    EmptyDir: _empty_dir,
    HostPath: _host_path,
    ConfigMapVolume: _config_map,
    SecretVolume: _secret,
    ClaimVolume: _claim,
    NfsVolume: _nfs,
}
