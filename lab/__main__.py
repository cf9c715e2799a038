"""The operator's command ``barenode``: dispatch, and an exit status for every way to fail."""

import asyncio
import os
import shutil
import signal
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable, Coroutine
from importlib.metadata import PackageNotFoundError, version
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from rich.console import Console

from hostkit.command import SubprocessRunner
from hostkit.errors import HostkitError
from lab import cli, control, host, hyperkube, plan, status
from lab.cgroups import Cgroups, parse_hierarchies
from lab.cluster import Cluster
from lab.demo import IMAGE, Demo, next_step
from lab.errors import LabError, UsageError
from lab.hyperkube import Hyperkube, HyperkubeSource
from lab.images import ImageCache
from lab.join import initcommand, joincommand, resetcommand, tokencommand
from lab.kubernetes import Wish
from lab.manual import command as manualcommand
from lab.master import hostcommand, pkicommand
from lab.model import EMBEDDED, KUBERNETES, NONE, LabSpec
from lab.namespaces import Namespaces
from lab.output import Output, headline, list_sheet, status_sheet
from lab.plan import FABRIC
from lab.probe import enter_argv, node_environment
from lab.status import LabStatus
from lab.store import Paths, Store

INTERRUPTED = 130
DEFAULT_NODES = 2

_ON_THIS_HOST: dict[str, Callable[[Namespace, Output], Coroutine[Any, Any, int]]] = {
    "init": initcommand.run,
    "join": joincommand.run,
    "reset": resetcommand.run,
    "token": tokencommand.run,
    "completion": manualcommand.run,
}


class Application:
    """The commands, each returning its exit status."""

    def __init__(self, cluster: Cluster, images: ImageCache, output: Output) -> None:
        self._cluster = cluster
        self._images = images
        self._output = output

    async def up(self, args: Namespace) -> int:
        """Make a lab, or boot one that was kept."""
        if self._cluster.store.is_kept(args.name):
            _refuse_changes(args)
            spec = await self._cluster.resume(args.name)
        else:
            spec = await self._make(args)
        found = await status.look(spec)
        if args.json:
            self._output.json(found)
        else:
            self._output.line(headline(found))
            self._output.sheet(status_sheet(found))
        return 0

    async def _make(self, args: Namespace) -> LabSpec:
        plane = args.control_plane or EMBEDDED
        nodes = DEFAULT_NODES if args.nodes is None else args.nodes
        wish = None
        if plane == KUBERNETES:
            masters = plan.check_masters(1 if args.masters is None else args.masters)
            # Making the image can take 20 minutes: what cannot be is refused before.
            plan.make_lab(args.name, nodes, _network(args), [], masters=masters)
            self._cluster.require(args.name, control_plane=True)
            self._cluster.require_new(args.name)
            wish = Wish(masters, await self._hyperkube(args), args.insecure)
        elif given := [flag for flag, value in _kubernetes_flags(args).items() if value]:
            raise UsageError(f"{given[0]} needs --control-plane kubernetes")
        return await self._cluster.up(
            args.name, nodes, _network(args), control_plane=plane != NONE, wish=wish
        )

    async def _hyperkube(self, args: Namespace) -> Hyperkube:
        found = await self._source().get(
            args.hyperkube_image, args.kube_bin_dir, args.kubernetes_version
        )
        if found.archive is None:
            raise UsageError(
                f"--hyperkube-image: {found.tag} is not in this machine's Docker, and a lab's hosts"
                " reach no registry: 'docker pull' it here by its tag, or give an archive"
            )
        if args.insecure and not args.hyperkube_image and found.kubectl is None:
            raise UsageError(
                f"--insecure: {args.kube_bin_dir} has no kubectl, which answers plain HTTP for an"
                " API server that does not: add it"
            )
        return found

    async def down(self, args: Namespace) -> int:
        """Remove labs, or all of them but their disks."""
        names = self._cluster.names() if args.all else [args.name]
        for name in names:
            if args.keep:
                await self._cluster.halt(name)
                self._output.progress(name, "down; 'barenode lab up' boots it again")
                continue
            there = await self._cluster.down(name)
            self._output.progress(name, "removed" if there else "was not there")
        return 0

    async def status(self, args: Namespace) -> int:
        """Show a lab."""
        found = await self._look(args.name)
        if args.json:
            self._output.json(found)
        else:
            self._output.line(headline(found))
            self._output.sheet(status_sheet(found))
        return 0

    async def _look(self, name: str) -> LabStatus:
        kept = self._cluster.store.is_kept(name)
        return await status.look(self._cluster.spec(name), kept=kept)

    async def list(self, args: Namespace) -> int:
        """Show all labs."""
        labs, partial = [], []
        for name in self._cluster.names():
            try:
                labs.append(await self._look(name))
            except LabError:  # damaged or half gone: shown as such
                partial.append(name)
        if args.json:
            self._output.json({"labs": labs, "partial": partial})
        elif labs or partial:
            self._output.sheet(list_sheet(labs, partial))
        else:
            self._output.line("no labs on this machine")
        return 0

    async def load(self, args: Namespace) -> int:
        """Load an image."""
        await self._cluster.load(args.name, Path(args.image), args.nodes)
        return 0

    async def kill(self, args: Namespace) -> int:
        """Power failure of a node."""
        await self._cluster.kill(args.name, args.node)
        self._output.progress(args.node, "is dead")
        return 0

    async def start(self, args: Namespace) -> int:
        """Boot a node."""
        await self._cluster.start(args.name, args.node)
        return 0

    async def demo(self, args: Namespace) -> int:
        """Show the overlay at work, then remove the lab."""
        image = asyncio.ensure_future(self._images.build(IMAGE))
        try:
            spec = await self._cluster.up(args.name, args.nodes, _network(args))
        except BaseException:
            image.cancel()
            raise
        try:
            self._output.progress(args.name, "nginx image from Debian packages")
            demo = Demo(self._cluster, self._output)
            reached = await demo.run(spec, await image)
        finally:
            image.cancel()
            if not args.keep:
                await asyncio.shield(self._cluster.down(args.name))
                self._output.progress(args.name, "removed")
        self._output.line(next_step(_program(), args.name, args.keep))
        return 0 if reached else 1

    async def build(self, args: Namespace) -> int:
        """Write an image archive."""
        if args.image == hyperkube.SUBJECT:
            made = await self._source().write(Path(args.output), args.kube_bin_dir)
            self._output.progress(made.tag, f"written to {args.output}")
            return 0
        if args.kube_bin_dir:
            raise UsageError(f"--kube-bin-dir is for the image {hyperkube.SUBJECT}")
        archive = await self._images.build(args.image)
        try:
            shutil.copyfile(archive, args.output)
        except OSError as error:
            raise LabError(f"{args.output}: {error.strerror}") from error
        self._output.progress(args.image, f"written to {args.output}")
        return 0

    def _source(self) -> HyperkubeSource:
        cache = self._cluster.store.paths.cache
        return HyperkubeSource(self._cluster.runner, cache, self._output.progress)


def _kubernetes_flags(args: Namespace) -> dict[str, object]:
    return {
        "--masters": args.masters is not None,
        "--insecure": args.insecure,
        "--hyperkube-image": args.hyperkube_image,
        "--kube-bin-dir": args.kube_bin_dir,
        "--kubernetes-version": args.kubernetes_version,
    }


def _refuse_changes(args: Namespace) -> None:
    """Raise UsageError when a lab that boots again is asked to be another one."""
    asked = {
        "--nodes": args.nodes is not None,
        "--network": args.network,
        "--control-plane": args.control_plane,
        **_kubernetes_flags(args),
    }
    if given := [flag for flag, value in asked.items() if value]:
        raise UsageError(
            f"lab {args.name!r} is down and kept, and boots as it was: leave out {given[0]}, or"
            f" remove the lab first with 'barenode lab down --name {args.name}'"
        )


def _network(args: Namespace) -> IPv4Network | None:
    return plan.parse_network(args.network) if args.network else None


def _program() -> str:
    called = Path(sys.argv[0])
    return "barenode" if shutil.which("barenode") else str(called)


def _version() -> str:
    try:
        return version("barenode")
    except PackageNotFoundError:
        return "not installed"


def _become(cluster: Cluster, args: Namespace) -> None:
    """Replace this process by the command in the node: stdin, terminal and status are its own."""
    ref = cluster.process(cluster.spec(args.name), args.node)
    argv = enter_argv(ref, args.remainder)
    for directory in cluster.cgroups.paths(args.name, args.node):
        join(Path(directory))
    os.execvpe(argv[0], argv, node_environment(dict(os.environ)))  # noqa: S606


def _become_kubectl(cluster: Cluster, args: Namespace) -> None:
    """Replace this process by kubectl in the fabric's network."""
    spec = cluster.spec(args.name)
    cluster.process(spec, FABRIC)
    cache = cluster.store.paths.state(spec.name).parent / "kubectl"
    server = asyncio.run(control.nearest_api(spec))
    argv = control.kubectl_argv(spec, server, cache, args.remainder, shutil.which)
    for directory in cluster.cgroups.paths(args.name, FABRIC):
        join(Path(directory))
    os.execvp(argv[0], argv)  # noqa: S606


def join(directory: Path) -> None:
    """Move this process into the cgroup, so that ``down`` finds it; on v2 into its leaf."""
    leaf = directory / "init"
    (leaf if leaf.is_dir() else directory).joinpath("cgroup.procs").write_text("0")


async def _until_signalled(work: Awaitable[int]) -> int:
    """Run *work*; SIGTERM and SIGHUP cancel it as Ctrl-C does, so that it cleans up."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    return await task


def main() -> int:
    """Run the command; never shows a traceback for something an operator can cause."""
    args = cli.parse(sys.argv[1:], _version())
    quiet = getattr(args, "json", False) and not sys.stderr.isatty()
    output = Output(Console(), Console(stderr=True), quiet=quiet)
    runner = SubprocessRunner()
    paths = Paths.standard(os.environ)
    try:
        if args.group == "pki":
            return pkicommand.run(args, output)
        if args.group == "host":
            return hostcommand.run(args, output)
        if args.group in _ON_THIS_HOST:
            return asyncio.run(_until_signalled(_ON_THIS_HOST[args.group](args, output)))
        if args.group == "lab":
            host.require_root(os.geteuid())
        images = ImageCache(runner, paths.cache)
        cluster = Cluster(
            Store(paths),
            Cgroups(parse_hierarchies(Path("/proc/self/mountinfo").read_text())),
            Namespaces(runner, paths.run / "netns-before"),
            runner,
            images=images,
            report=output.progress,
        )
        if args.command == "exec":
            _become(cluster, args)
        if args.command == "kubectl":
            _become_kubectl(cluster, args)
        application = Application(cluster, images, output)
        command: Callable[[Namespace], Awaitable[int]] = getattr(application, args.command)
        return asyncio.run(_until_signalled(command(args)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        output.error("interrupted")
        return INTERRUPTED
    except BaseExceptionGroup as group:
        error = only_failure(group)
        if error is None:
            raise
        return _fail(output, error)
    except (LabError, HostkitError, OSError) as error:
        return _fail(output, error)


def only_failure(group: BaseExceptionGroup[BaseException]) -> Exception | None:
    """The first failure in *group* that an operator can cause; None if any other is in it."""
    expected, rest = group.split((LabError, HostkitError, OSError))
    if rest is not None or expected is None:
        return None
    first: BaseException = expected
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first if isinstance(first, Exception) else None


def _fail(output: Output, error: Exception) -> int:
    output.error(str(error))
    return error.exit_status if isinstance(error, LabError) else 1


if __name__ == "__main__":
    sys.exit(main())
