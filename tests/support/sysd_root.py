"""The disk that every systemd host of the tests starts from: a Debian 12 made by mmdebstrap, once.

It holds what the package depends on and what a small server has. The package's own ``Depends``
are read from its control file, so that installing the package on such a host downloads nothing.
Roots are kept in ``roots/KEY`` of the cache folder, by a key over the list; one that no test has
used for a week goes.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

RELEASE = "bookworm"
CONTROL = Path(__file__).parents[2] / "packaging" / "debian" / "control"
SERVER = (
    "ca-certificates",
    "curl",
    "dbus",
    "docker.io",
    "iproute2",
    "iputils-ping",
    "kmod",
    "nftables",
    "procps",
    "python3",
    "systemd",
    "systemd-sysv",
    "tcpdump",
    "udev",
)
FORMAT = "1"
"""Part of the key; another number when the way of making a root changes."""
KEPT = 7 * 24 * 3600.0
"""Seconds for which a root that nobody uses stays."""


def cache_directory() -> Path:
    """The folder for what is kept between runs; BARENODE_CACHE moves it."""
    return Path(os.environ.get("BARENODE_CACHE") or "/var/cache/barenode").absolute()


def dependencies(control: str) -> tuple[str, ...]:
    """The packages in all ``Depends`` and ``Pre-Depends`` of a control file.

    Of alternatives the first counts; versions and substitution variables do not.
    """
    unfolded = re.sub(r"\n[ \t]+", " ", re.sub(r"(?m)^#.*\n", "", control))
    found = set()
    for field in re.findall(r"(?mi)^(?:Pre-)?Depends:(.*)$", unfolded):
        for clause in field.split(","):
            first = re.match(r"\s*([a-z0-9][a-z0-9+.-]*)", clause)
            if first:
                found.add(first[1])
    return tuple(sorted(found))


def key(packages: Iterable[str]) -> str:
    """The name of the root with these *packages*."""
    text = "\n".join([FORMAT, RELEASE, *sorted(set(packages))])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def wanted() -> tuple[str, ...]:
    """The packages of a test host, as the tree is now."""
    own = dependencies(CONTROL.read_text()) if CONTROL.exists() else ()
    return tuple(sorted({*SERVER, *own}))


def base_root() -> Path:
    """The root for the tree as it is now; made first if need be, which takes half a minute.

    Raises AssertionError with mmdebstrap's last words when it cannot be made.
    """
    packages = wanted()
    roots = cache_directory() / "roots"
    roots.mkdir(parents=True, exist_ok=True)
    with (roots / ".lock").open("w") as lock:
        # Runs beside each other make one root, not two.
        fcntl.flock(lock, fcntl.LOCK_EX)
        root = roots / key(packages)
        _forget_old(roots, root)
        if not root.exists():
            _make(root, packages)
        os.utime(root)
    return root


def _forget_old(roots: Path, keep: Path) -> None:
    for old in roots.iterdir():
        stale = old.name.endswith(".new") or old.stat().st_mtime < time.time() - KEPT
        if old.is_dir() and old != keep and stale:
            shutil.rmtree(old)


def _make(root: Path, packages: Iterable[str]) -> None:
    new = Path(tempfile.mkdtemp(dir=root.parent, prefix=root.name, suffix=".new"))
    try:
        done = subprocess.run(
            ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}", RELEASE, new],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"no root for test hosts:\n{done.stderr[-3000:]}"
        # mkdtemp's 0700 would keep every other user of the host out.
        new.chmod(0o755)
        # systemd then takes each host's identity from its container manager.
        (new / "etc/machine-id").write_text("")
        new.rename(root)
    finally:
        if new.exists():
            shutil.rmtree(new)
