"""The .deb of this tree, for hosts of tests.support.sysd."""

import fcntl
import os
import subprocess
from pathlib import Path

from tests.support.sysd import Host

ROOT = Path(__file__).parents[2]


def package() -> Path:
    """The package of the tree as it is now: that in dist/, built again if any source is newer.

    BARENODE_TEST_DEB names one that is taken as it is. Building takes a minute. Raises
    AssertionError with the build's last words.
    """
    given = os.environ.get("BARENODE_TEST_DEB")
    if given:
        return Path(given).absolute()
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    with (build / ".deb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = _newest()
        if found is None or found.stat().st_mtime < _last_change():
            done = subprocess.run(
                ["sh", "packaging/deb.sh"], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"no package:\n{done.stdout}{done.stderr}"
            found = _newest()
    assert found is not None, "packaging/deb.sh has left no package in dist/"
    return found


def _newest() -> Path | None:
    found = (ROOT / "dist").glob("barenode_*.deb")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _last_change() -> float:
    """When a file that the package is made of was last written, as time.time() has it."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z", "--", ":!tests", ":!docs"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    return max(path.stat().st_mtime for path in files if path.exists())


def install(deb: Path, *hosts: Host) -> None:
    """Install *deb* with apt, which has to find everything that it depends on installed."""
    for host in hosts:
        host.push(deb, f"/root/{deb.name}")
        # apt's own user may not read root's folder, and says so.
        host.run(
            "apt-get", "install", "-y", "--no-install-recommends", "-o", "APT::Sandbox::User=root",
            "-o", "Dpkg::Options::=--force-confold", "--reinstall", "--allow-downgrades",
            f"/root/{deb.name}", timeout=300,
        )  # fmt: skip
