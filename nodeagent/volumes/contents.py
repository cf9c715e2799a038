"""The files of configMap, secret, downwardAPI and projected volumes, as the objects are now."""

from collections.abc import Callable

from nodeagent.api.port import Objects
from nodeagent.errors import PodError
from nodeagent.pods.environment import resource_value
from nodeagent.pods.fieldpath import field_value
from nodeagent.pods.host import Host
from nodeagent.pods.model import Pod
from nodeagent.pods.volume import (
    DownwardItem,
    KeyToPath,
    ProjectedSource,
    ProjectedVolume,
    ServiceAccountToken,
    Volume,
)
from nodeagent.volumes.payload import REASON, File, Payload, check_path, check_tree, of_keys

TOKEN_MODE = 0o600
"""Of a token that one user or fsGroup reads; the group's bits come with the group."""

Files = dict[str, File]


def is_content(volume: Volume) -> bool:
    """Whether the volume's files are made of objects; containers get such volumes read-only."""
    return any(
        source is not None
        for source in (volume.config_map, volume.secret, volume.downward_api, volume.projected)
    )


def is_optional(volume: Volume) -> bool:
    """Whether files of the volume may be missing because a source is optional."""
    if volume.projected is not None:
        return any(
            (source.config_map is not None and source.config_map.optional)
            or (source.secret is not None and source.secret.optional)
            for source in volume.projected.sources
        )
    return (volume.config_map is not None and volume.config_map.optional) or (
        volume.secret is not None and volume.secret.optional
    )


class Contents:
    """Builds payloads; keeps tokens until they are due for renewal by the monotonic *clock*."""

    def __init__(self, objects: Objects, host: Host, clock: Callable[[], float]) -> None:
        self._objects = objects
        self._host = host
        self._clock = clock
        self._tokens: dict[tuple[str, str, str], tuple[str, float]] = {}

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        for key in [key for key in self._tokens if key[0] == uid]:
            del self._tokens[key]

    async def payload(self, pod: Pod, volume: Volume) -> Payload:
        """The files of *volume*; raises PodError for what is missing, unreadable or unfit."""
        what = f"volume {volume.name!r}"
        if volume.config_map is not None:
            source = volume.config_map
            files = await self._config_map(
                pod, source.name, source.items, mode=source.default_mode, optional=source.optional
            )
        elif volume.secret is not None:
            secret = volume.secret
            files = await self._secret(
                pod,
                secret.secret_name,
                secret.items,
                mode=secret.default_mode,
                optional=secret.optional,
            )
        elif volume.downward_api is not None:
            mode = volume.downward_api.default_mode
            files = self._fields(pod, volume.downward_api.items, mode, what)
        elif volume.projected is not None:
            files = await self._projected(pod, volume.name, volume.projected)
        else:
            raise AssertionError(f"{what} is not made of objects")
        check_tree(files, what)
        return files

    async def _config_map(
        self, pod: Pod, name: str, items: tuple[KeyToPath, ...], *, mode: int, optional: bool
    ) -> Files:
        what = f"ConfigMap {name!r}"
        data = await self._objects.config_map(pod.metadata.namespace, name)
        if data is None:
            return _nothing(what, optional)
        return of_keys(data, items, mode=mode, optional=optional, what=what)

    async def _secret(
        self, pod: Pod, name: str, items: tuple[KeyToPath, ...], *, mode: int, optional: bool
    ) -> Files:
        what = f"Secret {name!r}"
        secret = await self._objects.secret(pod.metadata.namespace, name)
        if secret is None:
            return _nothing(what, optional)
        return of_keys(secret.data, items, mode=mode, optional=optional, what=what)

    def _fields(self, pod: Pod, items: tuple[DownwardItem, ...], mode: int, what: str) -> Files:
        files: Files = {}
        for item in items:
            path = check_path(item.path, what)
            text = self._field(pod, item, f"{what}: {path}")
            files[path] = File(text.encode(), mode if item.mode is None else item.mode)
        return files

    def _field(self, pod: Pod, item: DownwardItem, what: str) -> str:
        if item.field_ref is not None:
            path = item.field_ref.field_path
            if not path.startswith("metadata."):
                raise PodError(
                    REASON,
                    f"{what}: fieldPath {path!r} can be a variable, not a file: a volume has only "
                    "the fields of metadata",
                    final=True,
                )
            return field_value(pod, path, pod_ip="", host=self._host, whole=True)
        if item.resource_field_ref is not None:
            return resource_value(pod, None, item.resource_field_ref, self._host, what)
        raise PodError(REASON, f"{what}: names neither fieldRef nor resourceFieldRef", final=True)

    async def _projected(self, pod: Pod, name: str, volume: ProjectedVolume) -> Files:
        files: Files = {}
        for source in volume.sources:
            files.update(await self._source(pod, name, source, volume.default_mode))
        return files

    async def _source(self, pod: Pod, name: str, source: ProjectedSource, mode: int) -> Files:
        if source.config_map is not None:
            config = source.config_map
            return await self._config_map(
                pod, config.name, config.items, mode=mode, optional=config.optional
            )
        if source.secret is not None:
            secret = source.secret
            return await self._secret(
                pod, secret.name, secret.items, mode=mode, optional=secret.optional
            )
        what = f"volume {name!r}"
        if source.downward_api is not None:
            return self._fields(pod, source.downward_api.items, mode, what)
        if source.service_account_token is not None:
            return await self._token(pod, name, source.service_account_token, mode)
        raise PodError(REASON, f"{what}: a source in it names no kind", final=True)

    async def _token(self, pod: Pod, name: str, wanted: ServiceAccountToken, mode: int) -> Files:
        path = check_path(wanted.path, f"volume {name!r}")
        key, now = (pod.uid, name, path), self._clock()
        token, until = self._tokens.get(key, ("", now))
        if until <= now:
            token, keep = await self._objects.token(pod, wanted.audience, wanted.expiration_seconds)
            self._tokens[key] = (token, now + keep)
        owner = common_user(pod)
        private = owner is not None or pod.spec.security_context.fs_group is not None
        return {path: File(token.encode(), TOKEN_MODE if private else mode, owner)}


def common_user(pod: Pod) -> int | None:
    """The user id that all containers of *pod* are told to run as, if it is one."""
    users = {
        container.security_context.run_as_user
        if container.security_context.run_as_user is not None
        else pod.spec.security_context.run_as_user
        for container in (*pod.spec.init_containers, *pod.spec.containers)
    }
    return users.pop() if len(users) == 1 else None


def _nothing(what: str, optional: bool) -> Files:
    if optional:
        return {}
    raise PodError(REASON, f"{what} does not exist")
