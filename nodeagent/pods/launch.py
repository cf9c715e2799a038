"""Starting what a plan says: the sandbox, and containers in it.

Each start may be interrupted between any two of its calls, by a kill of the agent too: what is
left is found by its labels, and the next plan goes on from there.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodeagent.api.port import SecretData
from nodeagent.docker.api import Image
from nodeagent.docker.creation import ContainerInputs, container_config, sandbox_config
from nodeagent.docker.labels import container_name
from nodeagent.errors import EngineConflict, EngineError, EngineNotFound, PodError
from nodeagent.pods.container import Container, SeccompProfile
from nodeagent.pods.dns import dns_for
from nodeagent.pods.environment import (
    EnvInputs,
    environment,
    expanded_container,
    references,
)
from nodeagent.pods.hooks import run_hook
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import SANDBOX, Seen
from nodeagent.pods.parts import Parts
from nodeagent.pods.plan import Start
from nodeagent.pods.security import check_user, seccomp_of

log = logging.getLogger(__name__)

HOOK_LIMIT = 600.0
"""Seconds that a postStart hook may take: Kubernetes sets none, but nothing may hang for ever."""

_TOLD = frozenset({"ErrImagePull", "ErrImageNeverPull", "InvalidImageName"})
_FAILED = frozenset(
    {"RunContainerError", "CreateContainerError", "CreateContainerConfigError",
     "ContainerRuntimeError"}
)  # fmt: skip


def event_reason(error: PodError) -> str:
    """The reason of the event about a start that failed; "" when there was one already.

    People filter on Failed, which is the kubelet's for what is wrong with a container.
    """
    if error.reason in _TOLD:
        return ""
    return "Failed" if error.reason in _FAILED else error.reason


@dataclass(frozen=True, slots=True)
class _Fetch:
    """An image on its way for a container whose ``hash`` was that."""

    hash: str
    task: "asyncio.Task[Image]"


class Launcher:
    """Starts the containers of one pod."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._preparing = asyncio.Lock()
        self._prepared = False
        self._cgroup: str | None = None
        self.digests: dict[str, str] = {}
        self._fetching: dict[str, _Fetch] = {}

    async def sandbox(self, pod: Pod, start: Start, first: Sequence[Container]) -> str | None:
        """Start the sandbox; meanwhile the images of the *first* containers are fetched.

        Gives what ``container`` does.
        """
        for container in first:
            self._fetch(pod, container)
        ahead = asyncio.create_task(self._prepare(pod))
        try:
            host = self._parts.host
            text = _read(host.resolv_conf)
            dns, warnings = dns_for(pod, host, text)
            for warning in warnings:
                self._parts.recorder.pod(pod, "Warning", "DNSConfigForming", warning)
            config = sandbox_config(
                pod, host, start.attempt, dns=dns, cgroup_parent=await self._parent(pod)
            )
            await self._replace(pod, start)
            name = container_name(pod, SANDBOX, start.attempt)
            try:
                made = await self._create(name, config)
            except EngineNotFound:
                # Its image, which is nearly always there: so it is not asked for each time.
                await self._parts.pause(pod)
                made = await self._create(name, config)
            return await self._start(made, start, "FailedCreatePodSandBox")
        except asyncio.CancelledError:
            ahead.cancel()
            raise
        finally:
            # Its error is told by the start of the container that needs it.
            await asyncio.gather(ahead, return_exceptions=True)

    def _fetch(self, pod: Pod, container: Container) -> "asyncio.Task[Image]":
        """The image on its way; one of a former spec is given up."""
        fetch = self._fetching.get(container.name)
        if fetch is not None and fetch.hash == container.hash:
            return fetch.task
        if fetch is not None:
            fetch.task.cancel()
        task = asyncio.create_task(self._image(pod, container))
        # Nobody may come to ask for it.
        task.add_done_callback(lambda one: one.cancelled() or one.exception())
        self._fetching[container.name] = _Fetch(container.hash, task)
        return task

    async def _image(self, pod: Pod, container: Container) -> Image:
        return await self._parts.images.ensure(pod, container, await self._pull_secrets(pod))

    async def _pull_secrets(self, pod: Pod) -> tuple[SecretData, ...]:
        found = []
        for reference in pod.spec.image_pull_secrets:
            try:
                secret = await self._parts.objects.secret(pod.metadata.namespace, reference.name)
            except PodError as error:
                log.warning("pod %s: image pull secret %s: %s", pod.key, reference.name, error)
                secret = None
            if secret is None:
                self._parts.recorder.pod(
                    pod, "Warning", "FailedToRetrieveImagePullSecret",
                    f"image pull secret {reference.name} cannot be read: trying without it",
                )  # fmt: skip
            else:
                found.append(secret)
        return tuple(found)

    async def _prepare(self, pod: Pod) -> None:
        async with self._preparing:
            if not self._prepared:
                await self._parts.volumes.prepare(pod)
                self._prepared = True

    async def _parent(self, pod: Pod) -> str:
        if self._cgroup is None:
            self._cgroup = await self._parts.cgroups.prepare(pod)
        return self._cgroup

    async def container(
        self, pod: Pod, container: Container, start: Start, sandbox: Seen, address: str
    ) -> str | None:
        """Start one instance of *container* and run its postStart hook; raises PodError.

        Gives its id, or None when others of the pod changed as well.
        """
        task = self._fetch(pod, container)
        try:
            image = await task
        finally:
            # Asked anew for each instance: policy Always looks for a newer one.
            self._fetching.pop(container.name, None)
            task.cancel()
        self.digests[container.name] = image.digests[0] if image.digests else ""
        check_user(pod, container, image.user)
        await self._prepare(pod)
        config = await self._config(
            pod, container, start, sandbox=sandbox, address=address, image=image
        )
        await self._replace(pod, start)
        name = container_name(pod, container.name, start.attempt, container.hash)
        made = await self._create(name, config)
        self._parts.recorder.pod(
            pod, "Normal", "Created", f"Created container {container.name}", container.name
        )
        started = await self._start(made, start, "RunContainerError")
        self._parts.recorder.pod(
            pod, "Normal", "Started", f"Started container {container.name}", container.name
        )
        if container.lifecycle.post_start is not None:
            await self._post_start(pod, container, made, address)
        return started

    async def _config(
        self,
        pod: Pod,
        container: Container,
        start: Start,
        *,
        sandbox: Seen,
        address: str,
        image: Image,
    ) -> Mapping[str, Any]:
        inputs = await self._environment_inputs(pod, container, address)
        made = environment(pod, container, inputs)
        for reason, warnings in (
            ("EnvironmentVariables", made.warnings),
            ("InvalidEnvironmentVariableNames", made.left_out),
        ):
            for warning in warnings:
                self._parts.recorder.pod(pod, "Warning", reason, warning, container.name)
        variables = made.values
        mounts = await self._parts.volumes.mounts(
            pod, container, start.attempt, pod_ip=address, env=variables
        )
        return container_config(
            pod,
            expanded_container(container, variables),
            ContainerInputs(
                sandbox_id=sandbox.id,
                attempt=start.attempt,
                image=image,
                env=made.variables,
                mounts=mounts,
                cgroup_parent=await self._parent(pod),
                seccomp=await self._seccomp(pod, container),
            ),
            self._parts.host,
        )

    async def _environment_inputs(self, pod: Pod, container: Container, address: str) -> EnvInputs:
        objects, namespace = self._parts.objects, pod.metadata.namespace
        maps: dict[str, Mapping[str, bytes] | None] = {}
        secrets: dict[str, Mapping[str, bytes] | None] = {}
        for kind, name in sorted(references(pod, container)):
            if kind == "ConfigMap":
                maps[name] = await objects.config_map(namespace, name)
            else:
                secret = await objects.secret(namespace, name)
                secrets[name] = None if secret is None else secret.data
        # A static pod may be the very API server that services come from.
        waits = objects.services_listed or not pod.is_static
        return EnvInputs(
            services=tuple(await objects.services()) if waits else (),
            config_maps=maps,
            secrets=secrets,
            pod_ip=address,
            host=self._parts.host,
        )

    async def _seccomp(self, pod: Pod, container: Container) -> str:
        profile: SeccompProfile | None = seccomp_of(pod, container)
        if profile is None or profile.type != "Localhost":
            return ""
        path = self._parts.host.seccomp_root / profile.localhost_profile
        text = _read(path)
        if not text:
            raise PodError(
                "CreateContainerConfigError", f"seccomp profile {path} is missing or empty"
            )
        return text

    async def _replace(self, pod: Pod, start: Start) -> None:
        for old in start.replaces:
            await self._parts.engine.remove(old)
            # One that was being started when dockerd was killed may have a process all the same.
            await self._parts.cgroups.end_left(pod.uid, old)

    async def _create(self, name: str, config: Mapping[str, Any]) -> str:
        """Create; a container in the way is a dead one of ours, or Docker's memory of one."""
        engine = self._parts.engine
        try:
            return await engine.create(name, config)
        except EngineConflict:
            await self._remove_named(name)
        try:
            return await engine.create(name, config)
        except EngineConflict:
            # Docker can hold on to a name without a container (kubernetes#36768).
            return await engine.create(f"{name}_{self._parts.clock():.0f}", config)

    async def _remove_named(self, name: str) -> None:
        for entry in await self._parts.engine.containers():
            if f"/{name}" in entry.names or name in entry.names:
                if entry.state == "running":
                    raise PodError(
                        "CreateContainerError", f"container {name} runs already: looking again"
                    )
                await self._parts.engine.remove(entry.id)

    async def _start(self, made: str, start: Start, reason: str) -> str | None:
        try:
            await self._parts.engine.start(made)
        except EngineError as error:
            raise PodError(reason, str(error)) from error
        return None if start.replaces else made

    async def _post_start(self, pod: Pod, container: Container, made: str, address: str) -> None:
        hook = container.lifecycle.post_start
        assert hook is not None  # noqa: S101 - for the type checker
        seen = await self._parts.engine.inspect(made)
        try:
            await run_hook(
                hook, pod, container, seen, address, self._parts.engine, timeout=HOOK_LIMIT
            )
        except PodError as error:
            self._parts.recorder.pod(
                pod, "Warning", "FailedPostStartHook", error.message, container.name
            )
            with contextlib.suppress(EngineError):
                await self._parts.engine.kill(made, "SIGKILL")
            raise PodError("PostStartHookError", error.message) from error

    def stop(self) -> None:
        """Fetch no more ahead."""
        for fetch in self._fetching.values():
            fetch.task.cancel()

    async def close(self) -> None:
        """Fetch no more ahead, and wait for the end of it."""
        self.stop()
        tasks = [fetch.task for fetch in self._fetching.values()]
        self._fetching.clear()
        await asyncio.gather(*tasks, return_exceptions=True)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
