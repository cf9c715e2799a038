"""The volumes and files of all pods.

    prepare --> what is behind a claim --> folders, mounts, contents
    mounts  --> binds of one container: whole volumes, subPaths, /etc/hosts, termination log
    refresh --> contents as the objects are now
    teardown -> unmount all below the pod's folder --> delete it

What is on disk and in the kernel's table of mounts is the state; what is held in memory only
saves work. So an agent that starts anew goes on where the last one was ended. Every call that
touches files runs in a thread with a deadline, under a key of its own volume: a dead file server
stops the pods that use it.
"""

import asyncio
import contextlib
import functools
import hashlib
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

from hostkit.command import Runner
from hostkit.mounts import KernelMounts, Mounts
from nodeagent.api.port import Objects, Recorder
from nodeagent.errors import PodError
from nodeagent.pods.container import Container
from nodeagent.pods.host import Host, Mount
from nodeagent.pods.model import Pod
from nodeagent.pods.volume import Volume
from nodeagent.volumes import backing as backings
from nodeagent.volumes import nfs, removal, usage
from nodeagent.volumes.backing import Backing
from nodeagent.volumes.binding import ETC_HOSTS, Binder, Source, path_within, propagation_of
from nodeagent.volumes.contents import Contents, is_content, is_optional
from nodeagent.volumes.jobs import Jobs
from nodeagent.volumes.layout import NFS, check_name, kind_of, pod_folder, volume_folder
from nodeagent.volumes.making import Maker
from nodeagent.volumes.payload import REASON, Payload
from nodeagent.volumes.subpath import REASON as CONFIG_ERROR

log = logging.getLogger(__name__)

T = TypeVar("T")

WITHIN = 30.0
"""Seconds that a call on files of a volume may take."""

UNMOUNT_WITHIN = 10.0
"""Seconds that a file server gets for an orderly unmount."""

DELETE_WITHIN = 300.0
"""Seconds for deleting a pod's folder, which may hold millions of files."""

UNMOUNT_REASON = "FailedUnMount"


class Volumes:
    """Keeps the volumes of pods; *clock* is monotonic seconds."""

    def __init__(
        self,
        host: Host,
        objects: Objects,
        recorder: Recorder,
        runner: Runner,
        mounts: Mounts | None = None,
        *,
        clock: Callable[[], float],
        etc_hosts: Path = Path(ETC_HOSTS),
        within: float = WITHIN,
    ) -> None:
        self._host = host
        self._objects = objects
        self._recorder = recorder
        self._runner = runner
        self._mounts = mounts or KernelMounts()
        self._clock = clock
        self._within = within
        self._jobs = Jobs()
        self._maker = Maker(host, self._mounts)
        self._binder = Binder(host, self._mounts, etc_hosts)
        self._contents = Contents(objects, host, clock)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._backings: dict[tuple[str, str], Backing] = {}
        self._digests: dict[tuple[str, str], bytes] = {}
        self._usage: dict[str, tuple[float, tuple[usage.Exceeded, ...]]] = {}

    async def prepare(self, pod: Pod) -> None:
        """Make all volumes of *pod* ready; one that is ready already is left as it is.

        Raises PodError (FailedMount) naming every volume that is not.
        """
        check_name(pod.uid, "metadata.uid")
        async with self._lock(pod.uid):
            await _all(self._prepare(pod, volume) for volume in pod.spec.volumes)

    async def _prepare(self, pod: Pod, volume: Volume) -> None:
        check_name(volume.name, "spec.volumes.name")
        if volume.empty_dir is not None:
            work = functools.partial(self._maker.empty_dir, pod, volume, volume.empty_dir)
            await self._call(pod, volume.name, work)
        elif is_content(volume):
            await self._prepare_contents(pod, volume)
        else:
            await self._prepare_backing(pod, volume)

    async def _prepare_contents(self, pod: Pod, volume: Volume) -> None:
        try:
            payload = await self._contents.payload(pod, volume)
        except PodError as error:
            filled = functools.partial(self._maker.is_filled, pod, volume)
            if not await self._call(pod, volume.name, filled):
                raise
            # A container that has run here may start again though the API server is gone.
            message = f"volume {volume.name!r} keeps the contents it has: {error.message}"
            self._recorder.pod(pod, "Warning", error.reason, message)
            return
        work = functools.partial(self._maker.contents, pod, volume, payload)
        await self._call(pod, volume.name, work)
        self._digests[pod.uid, volume.name] = _digest(payload)

    async def _prepare_backing(self, pod: Pod, volume: Volume) -> None:
        found, new = await self._backing(pod, volume)
        if found.server:
            folder, mounted = await self._call(
                pod, volume.name, functools.partial(self._maker.nfs_folder, pod, volume)
            )
            if not mounted:
                await nfs.mount(self._runner, found, folder, volume.name)
        else:
            work = functools.partial(self._maker.path_of_host, pod, volume, found, new=new)
            await self._call(pod, volume.name, work)
        if new:
            keep = functools.partial(self._maker.keep_claim, pod, volume, found)
            await self._call(pod, volume.name, keep)
        self._backings[pod.uid, volume.name] = found

    async def _backing(self, pod: Pod, volume: Volume) -> tuple[Backing, bool]:
        """What is behind *volume*, and whether it is a claim that was resolved just now."""
        found = backings.inline(volume)
        if found is not None:
            return found, False
        if volume.persistent_volume_claim is None:
            raise PodError(
                REASON,
                f"volume {volume.name!r} names no kind of volume that nodeagent knows: use "
                "emptyDir, hostPath, configMap, secret, downwardAPI, projected, nfs or "
                "persistentVolumeClaim",
                final=True,
            )
        kept = await self._call(pod, volume.name, functools.partial(self._maker.claim, pod, volume))
        if kept is not None:
            return kept, False
        return await backings.claimed(self._objects, pod, volume, self._host.name), True

    async def mounts(
        self, pod: Pod, container: Container, attempt: int, *, pod_ip: str, env: Mapping[str, str]
    ) -> tuple[Mount, ...]:
        """All bind mounts of instance *attempt* of *container*, whose volumes are prepared.

        *env* are the container's variables, for subPathExpr. Raises PodError
        (CreateContainerConfigError).
        """
        check_name(pod.uid, "metadata.uid")
        found = []
        for index, wanted in enumerate(container.volume_mounts):
            source = await self._source(pod, wanted.name)
            path, part = source.path, path_within(wanted, env)
            propagation = propagation_of(wanted, container)
            if part:
                work = functools.partial(self._binder.part, pod, container, index, source, part)
                path = await self._call(pod, wanted.name, work, CONFIG_ERROR)
            read_only = wanted.read_only or source.read_only
            found.append(Mount(path, wanted.mount_path, read_only, propagation))
        taken = {one.target.rstrip("/") for one in found}
        found += [one for one in await self._own_files(pod, container, attempt, pod_ip)
                  if one.target.rstrip("/") not in taken]  # fmt: skip
        return tuple(found)

    async def _own_files(
        self, pod: Pod, container: Container, attempt: int, pod_ip: str
    ) -> list[Mount]:
        def make() -> list[Mount]:
            read_only = container.security_context.read_only_root_filesystem
            files = [Mount(self._binder.hosts_file(pod, pod_ip), ETC_HOSTS, read_only)]
            if container.termination_message_path:
                path = self._binder.termination_log(pod, container, attempt)
                files.append(Mount(path, container.termination_message_path))
            return files

        return await self._call(pod, "", make, CONFIG_ERROR)

    async def _source(self, pod: Pod, name: str) -> Source:
        volume = next((one for one in pod.spec.volumes if one.name == name), None)
        if volume is None:
            raise PodError(
                CONFIG_ERROR, f"volumeMounts: {name!r} is not one of spec.volumes", final=True
            )
        group = pod.spec.security_context.fs_group
        if volume.empty_dir is not None:
            return Source(str(self._folder(pod, volume)), group=group)
        if is_content(volume):
            path = str(self._folder(pod, volume))
            return Source(path, read_only=True, content=True, optional=is_optional(volume))
        found = self._backings.get((pod.uid, name))
        if found is None:
            found, new = await self._backing(pod, volume)
            if new:
                raise PodError(CONFIG_ERROR, f"volume {name!r} is not ready yet")
        claim = volume.persistent_volume_claim
        read_only = found.read_only or (claim is not None and claim.read_only)
        path = found.path
        if found.server:
            path = str(volume_folder(self._host, pod.uid, NFS, name))
        return Source(path, read_only=read_only, group=group if found.local else None)

    async def refresh(self, pod: Pod) -> bool:
        """Bring the files of configMap, secret, downwardAPI and projected volumes up to date.

        Returns whether some changed. Volumes that were never filled are left for ``prepare``.
        Raises PodError after all were tried; contents that cannot be had stay as they were.
        """
        check_name(pod.uid, "metadata.uid")
        async with self._lock(pod.uid):
            content = [volume for volume in pod.spec.volumes if is_content(volume)]
            return any(await _all(self._refresh(pod, volume) for volume in content))

    async def _refresh(self, pod: Pod, volume: Volume) -> bool:
        key = (pod.uid, check_name(volume.name, "spec.volumes.name"))
        filled = functools.partial(self._maker.is_filled, pod, volume)
        if key not in self._digests and not await self._call(pod, volume.name, filled):
            return False
        payload = await self._contents.payload(pod, volume)
        digest = _digest(payload)
        if self._digests.get(key) == digest:
            return False
        work = functools.partial(self._maker.rewrite, pod, volume, payload)
        changed = await self._call(pod, volume.name, work)
        self._digests[key] = digest
        return changed

    async def teardown(self, uid: str) -> None:
        """Unmount and delete all files of the pod; nothing when there are none.

        Raises PodError (FailedUnMount), after which another try goes on.
        """
        folder = pod_folder(self._host, uid)
        async with self._lock(uid):
            self._forget(uid)
            # A mount that a cancelled call still makes would come after the look at the table.
            await self._jobs.settle(f"{uid}/", within=min(UNMOUNT_WITHIN, self._within))
            try:
                await self._unmount_all(uid, folder)
                delete = functools.partial(removal.delete, folder, self._mounts)
                await self._jobs.run(f"{uid}//delete", delete, within=DELETE_WITHIN)
            except TimeoutError as error:
                message = f"the files of pod {uid} in {folder} are still being removed"
                raise PodError(UNMOUNT_REASON, message) from error
            except OSError as error:
                raise PodError(UNMOUNT_REASON, f"cannot remove {folder}: {error}") from error

    def _forget(self, uid: str) -> None:
        self._contents.forget(uid)
        self._usage.pop(uid, None)
        for known in (self._backings, self._digests):
            for key in [key for key in known if key[0] == uid]:
                del known[key]

    async def _unmount_all(self, uid: str, folder: Path) -> None:
        look = functools.partial(removal.mounted_below, self._mounts, folder)
        found = await self._jobs.run(f"{uid}//look", look, within=self._within)
        if not found:
            return
        isolate = functools.partial(removal.isolate, self._mounts, found)
        await self._jobs.run(f"{uid}//isolate", isolate, within=self._within)
        for one in found:
            orderly = functools.partial(removal.unmount, self._mounts, one)
            network = one.fstype in removal.NETWORK
            within = min(UNMOUNT_WITHIN, self._within) if network else self._within
            try:
                await self._jobs.run(f"{uid}//{one.target}", orderly, within=within)
            except TimeoutError:
                if not network:
                    raise
                log.warning("pod %s: %s does not let go of its mount: left to the kernel",
                            uid, one.source)  # fmt: skip
                lazily = functools.partial(removal.unmount, self._mounts, one, lazily=True)
                # The deletion looks at the table again.
                with contextlib.suppress(TimeoutError):
                    await self._jobs.run(f"{uid}//{one.target}//lazy", lazily, within=within)

    async def orphans(self, known: Collection[str]) -> list[str]:
        """UIDs of pods that have a folder and are not among the *known*."""
        root = self._host.root / "pods"

        def look() -> list[str]:
            try:
                return sorted(one.name for one in root.iterdir() if one.is_dir())
            except FileNotFoundError:
                return []

        try:
            found = await self._jobs.run("//orphans", look, within=self._within)
        except OSError as error:
            log.warning("cannot list %s: %s", root, error)
            return []
        return [uid for uid in found if uid not in known and not uid.startswith(".")]

    async def usage(self, pod: Pod) -> tuple[usage.Exceeded, ...]:
        """The limits of disk space that emptyDir volumes of *pod* exceed.

        Looked at anew every ``usage.SHORTEST`` seconds at most.
        """
        now = self._clock()
        last = self._usage.get(pod.uid)
        if last is not None and now - last[0] < usage.SHORTEST:
            return last[1]
        check_name(pod.uid, "metadata.uid")
        folder_of = functools.partial(volume_folder, self._host, pod.uid, "empty-dir")
        try:
            if not usage.is_limited(pod):
                return ()
            look = functools.partial(usage.exceeded, pod, folder_of)
            found = await self._jobs.run(f"{pod.uid}//usage", look, within=self._within)
        except (OSError, ValueError) as error:
            log.warning("pod %s: the size of its volumes is not known: %s", pod.key, error)
            return ()
        self._usage[pod.uid] = (now, found)
        return found

    def _folder(self, pod: Pod, volume: Volume) -> Path:
        return volume_folder(self._host, pod.uid, kind_of(volume), volume.name)

    def _lock(self, uid: str) -> asyncio.Lock:
        return self._locks.setdefault(uid, asyncio.Lock())

    async def _call(self, pod: Pod, volume: str, work: Callable[[], T], reason: str = REASON) -> T:
        what = f"volume {volume!r}" if volume else "files of the pod"
        try:
            return await self._jobs.run(f"{pod.uid}/{volume}", work, within=self._within)
        except TimeoutError as error:
            message = f"{what}: the file system has not answered for {self._within:g} s"
            raise PodError(reason, message) from error
        except OSError as error:
            raise PodError(reason, f"{what}: {error}") from error


async def _all(works: Iterable[Awaitable[T]]) -> list[T]:
    """The results of *works*, after all have ended; raises one PodError for all that failed."""
    results = await asyncio.gather(*works, return_exceptions=True)
    failed = [one for one in results if isinstance(one, PodError)]
    for one in results:
        if isinstance(one, BaseException) and not isinstance(one, PodError):
            raise one
    if len(failed) == 1:
        raise failed[0]
    if failed:
        message = "; ".join(one.message for one in failed)
        raise PodError(failed[0].reason, message, final=any(one.final for one in failed))
    return [one for one in results if not isinstance(one, BaseException)]


def _digest(payload: Payload) -> bytes:
    total = hashlib.blake2b(digest_size=16)
    for path in sorted(payload):
        file = payload[path]
        head = f"{path}\0{file.mode}\0{file.owner}\0{len(file.data)}\0"
        total.update(head.encode(errors="surrogateescape"))
        total.update(file.data)
    return total.digest()
