"""What hosts get when they boot for the first time: files before, images and manifests after.

There is no registry to pull from, so every image that a host needs is loaded into its Docker.
"""

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, Protocol

from lab import kubernetes
from lab.errors import LabError
from lab.host import docker_client
from lab.images import ImageCache
from lab.kubernetes import Wish
from lab.model import LabSpec, NodeSpec, ProcessRef
from lab.probe import enter_argv, node_environment
from lab.store import Paths

POD_IMAGE = "busybox"
"""The image that every host has when pods can run on it."""
ETCD_IMAGE = "etcd"
_P = ParamSpec("_P")


class Report(Protocol):
    """Hears about progress."""

    def __call__(self, subject: str, text: str) -> None:
        """*subject* (a node, or the lab) is now at *text*."""


class FirstBoot:
    """The first boot of a lab's hosts; *wish* is what was asked for of a real Kubernetes."""

    def __init__(self, paths: Paths, images: ImageCache, report: Report, wish: Wish | None) -> None:
        self._paths = paths
        self._images = images
        self._report = report
        self._wish = wish
        self._builds: dict[str, asyncio.Task[Path]] = {}

    def begin(self, spec: LabSpec) -> None:
        """Begin to build the images that will be needed."""
        if spec.api:
            names = [POD_IMAGE, ETCD_IMAGE] if spec.masters else [POD_IMAGE]
            build = self._images.build
            self._builds = {name: asyncio.ensure_future(build(name)) for name in names}

    def cancel(self) -> None:
        """Stop what is still being built."""
        for build in self._builds.values():
            build.cancel()

    async def provision(self, spec: LabSpec) -> None:
        """Put on the hosts' disks what they need before they boot."""
        if spec.masters:
            self._report(spec.name, "certificates and settings on every disk")
            await _whole(kubernetes.provision, self._paths, spec)

    async def complete(self, spec: LabSpec, node: NodeSpec) -> None:
        """Load images into *node*'s Docker; then a master gets its manifests."""
        ref = spec.processes[node.name]
        names = [name for name in self._builds if node.master or name != ETCD_IMAGE]
        archives = [await asyncio.shield(self._builds[name]) for name in names]
        if node.master and self._wish is not None and self._wish.hyperkube.archive is not None:
            archives.append(self._wish.hyperkube.archive)
        for archive in archives:
            await asyncio.to_thread(load_image, ref, node.name, archive, self._report)
        if node.master:
            await _whole(kubernetes.place_manifests, self._paths, spec, node)


async def _whole(work: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs) -> None:
    """Do *work* in a thread; who is cancelled meanwhile waits for its end.

    A thread cannot be stopped: it would go on to write to the disk of a lab that is removed.
    """
    thread = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        await asyncio.shield(thread)
    finally:
        await asyncio.wait({thread})


def load_image(ref: ProcessRef, node: str, image: Path, report: Report) -> None:
    """Load the archive *image* into the Docker of *node*; blocks; raises LabError."""
    report(node, f"loading {image.name}")
    try:
        with image.open("rb") as archive:
            done = subprocess.run(
                enter_argv(ref, [docker_client(), "load", "--quiet"]),
                stdin=archive,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
                env=node_environment(dict(os.environ)),
            )
    except OSError as error:
        raise LabError(f"{image}: {error.strerror}") from error
    if done.returncode:
        raise LabError(f"{node} does not take {image}: {done.stderr.strip()}")
    report(node, done.stdout.strip() or f"loaded {image.name}")
