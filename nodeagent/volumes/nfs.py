"""Mounting NFS exports by mount.nfs (nfs-common, nfs-utils), which speaks the mount protocols."""

from pathlib import Path

from hostkit.command import CommandError, Runner
from hostkit.errors import cut
from nodeagent.errors import PodError
from nodeagent.volumes.backing import Backing
from nodeagent.volumes.payload import REASON

DEADLINE = 60.0
"""Seconds for one attempt; mount.nfs itself would try for two minutes."""


def argv(backing: Backing, target: Path) -> tuple[str, ...]:
    """The command line of mount.nfs(8)."""
    server = f"[{backing.server}]" if ":" in backing.server.strip("[]") else backing.server
    server = server.replace("[[", "[").replace("]]", "]")
    options = (*backing.options, *(("ro",) if backing.read_only else ()))
    extra = ("-o", ",".join(options)) if options else ()
    return ("mount.nfs", f"{server}:{backing.path}", str(target), *extra)


async def mount(runner: Runner, backing: Backing, target: Path, name: str) -> None:
    """Mount the export on *target*; raises PodError. May take DEADLINE seconds."""
    what = f"volume {name!r}: NFS export {backing.server}:{backing.path}"
    try:
        await runner.run(argv(backing, target), timeout=DEADLINE)
    except CommandError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise PodError(
                REASON,
                f"{what} cannot be mounted, mount.nfs is not installed: install the package "
                "nfs-common (Debian, Ubuntu) or nfs-utils",
            ) from error
        raise PodError(REASON, f"{what} cannot be mounted: {cut(error.stderr, 300)}") from error
