"""A package's fields, and one of another version made of it."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

PACKAGE = "barenode"


def field(package: Path, name: str) -> str:
    """One field of the package's control file."""
    argv = ["dpkg-deb", "--field", str(package), name]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def of_version(
    package: Path, version: str, folder: Path, *, edit: Callable[[Path], None] = lambda _: None
) -> Path:
    """*package* with another version number, in *folder*. *edit* may change its files."""
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(tree)], check=True)
    control = tree / "DEBIAN/control"
    old = f"Version: {field(package, 'Version')}\n"
    text = control.read_text()
    assert old in text
    control.write_text(text.replace(old, f"Version: {version}\n"))
    edit(tree)
    made = folder / f"{PACKAGE}_{version}_{field(package, 'Architecture')}.deb"
    argv = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(made)]
    subprocess.run(argv, check=True, capture_output=True)
    shutil.rmtree(tree)
    return made
