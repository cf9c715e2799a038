#!/usr/bin/python3
"""The private libraries of the .deb: fetched by hash, installed, trimmed, and proven complete.

``fetch`` is the only step that needs a network. Everything is for the interpreter that runs this
script, and its processor: a package is built on what it is built for.
"""

import argparse
import importlib
import importlib.metadata
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath

PRODUCT = ("hostkit", "netd", "nodeagent", "lab")
ASSETS = "lab/assets"
"""The one folder of the product with files that are no modules (pyproject.toml, package-data)."""
DEBIAN_MODULES = "/usr/lib/python3/dist-packages"
"""Where Debian's packages have their modules (Debian Python Policy, 2.6)."""
STAMP = "requirements.sha256"

_DEVELOPMENT = {".c", ".h", ".pxd", ".pxi", ".pyc", ".pyi", ".pyx", ".typed", ".hash"}
_INSTALLER = {"INSTALLER", "RECORD", "REQUESTED", "WHEEL", "entry_points.txt", "top_level.txt"}
_FOLDERS = {"__pycache__", "bin", "licenses", "test", "testing", "tests"}


class BundleError(Exception):
    """The libraries cannot be had as wanted; the message says what to do."""


def normal(name: str) -> str:
    """The normalized name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_names(listed: str) -> tuple[str, ...]:
    """The names in *listed*, one a line; ``#`` begins a comment."""
    lines = (line.partition("#")[0].strip() for line in listed.splitlines())
    return tuple(normal(line) for line in lines if line)


def pinned(lock: str, names: Sequence[str]) -> str:
    """The lines of *lock* for *names*, with their hashes, in pip's form for requirements.

    Raises BundleError for a name without a version or without a hash.
    """
    found = {}
    for line in lock.replace("\\\n", " ").splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==\S+.*--hash=", line):
            found[normal(match[1])] = " ".join(line.split())
    missing = [name for name in names if name not in found]
    if missing:
        raise BundleError(
            f"requirements.lock has no version with hashes of {', '.join(missing)}: run"
            " 'make lock', or correct packaging/bundled.txt"
        )
    return "".join(f"{found[name]}\n" for name in names)


def is_shipped(path: PurePosixPath) -> bool:
    """Whether *path*, relative to the folder of the libraries, is needed at run time."""
    if (
        path.suffix in _DEVELOPMENT
        or path.name.startswith("_testcapi.")
        or _FOLDERS.intersection(path.parts[:-1])
    ):
        return False
    return not (path.parent.suffix == ".dist-info" and path.name in _INSTALLER)


def is_licence(path: PurePosixPath) -> bool:
    """Whether *path* is a notice that has to go with the library."""
    return "licenses" in path.parts[:-1]


def as_module(source: bytes) -> bytes:
    """*source* without a line that names an interpreter: modules are not started. Lines stay."""
    return re.sub(rb"\A#!.*", b"#", source)


def metadata(project: Mapping[str, object]) -> str:
    """The METADATA file of the product from pyproject's table *project* (core metadata 2.1)."""
    requirements = project["dependencies"]
    if not isinstance(requirements, list):
        raise BundleError("pyproject.toml: dependencies is no list")
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {project['name']}",
        f"Version: {project['version']}",
        f"Summary: {project['description']}",
        f"License: {project['license']}",
        f"Requires-Python: {project['requires-python']}",
        *(f"Requires-Dist: {one}" for one in requirements),
    ]
    return "\n".join(lines) + "\n"


def unmet(folder: Path, system: Path) -> list[str]:
    """What distributions in *folder* require and neither it nor *system* has, in sentences."""
    from packaging.requirements import Requirement  # noqa: PLC0415 - only the build has it

    own = {normal(one.name): one for one in _distributions(folder)}
    versions = {normal(one.name): one.version for one in _distributions(system)}
    versions |= {name: one.version for name, one in own.items()}
    problems = []
    for name, one in sorted(own.items()):
        for text in one.requires or ():
            wanted = Requirement(text)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                continue
            version = versions.get(normal(wanted.name))
            if version is None:
                problems.append(f"{name} needs {text}, which is neither bundled nor a dependency")
            elif not wanted.specifier.contains(version, prereleases=True):
                problems.append(f"{name} needs {text} and gets {version}")
    return problems


def _distributions(folder: Path) -> Iterator[importlib.metadata.Distribution]:
    return iter(importlib.metadata.distributions(path=[str(folder)]))


def fetch(requirements: str, into: Path) -> None:
    """Download the wheels of *requirements* to *into*, unless they are there."""
    stamp = into / STAMP
    digest = sha256((sys.version + requirements).encode()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="ascii") == digest:
        return
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    _pip("download", requirements, "--dest", str(into))
    stamp.write_text(digest, encoding="ascii")


def install(requirements: str, wheels: Path, into: Path, licences: Path) -> None:
    """Install *requirements* from *wheels* to *into* without what is not needed at run time.

    Their notices go to *licences*, a folder for each library.
    """
    arguments = ("--no-index", "--find-links", str(wheels), "--no-compile", "--target", str(into))
    _pip("install", requirements, *arguments)
    files = [path for path in sorted(into.rglob("*")) if path.is_file()]
    for path in files:
        relative = PurePosixPath(path.relative_to(into).as_posix())
        if is_licence(relative):
            library = relative.parts[0].partition("-")[0]
            target = licences / library / "_".join(relative.parts[2:])
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(
                path, target.with_name(f"{target.name}.txt".replace(".txt.txt", ".txt"))
            )
        if not is_shipped(relative):
            path.unlink()
        elif path.suffix == ".py":
            path.write_bytes(as_module(path.read_bytes()))
    _remove_empty(into)


def _remove_empty(root: Path) -> None:
    for folder, _, _ in os.walk(root, topdown=False):
        if folder != str(root) and not any(Path(folder).iterdir()):
            Path(folder).rmdir()


def _pip(command: str, requirements: str, *arguments: str) -> None:
    listed = "/dev/stdin"
    argv = [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check"]
    argv += ["--no-input", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    argv += [*arguments, "--requirement", listed]
    environment = {
        **os.environ,
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_NO_WARN_SCRIPT_LOCATION": "1",
    }
    done = subprocess.run(
        argv, input=requirements, text=True, check=False, env=environment, capture_output=True
    )
    if done.returncode != 0:
        raise BundleError(f"pip {command} failed:\n{done.stderr.strip()}")


def copy_product(source: Path, into: Path) -> None:
    """Copy the product's modules and assets, and make the METADATA that tells its version."""
    for package in PRODUCT:
        for path in sorted((source / package).rglob("*")):
            relative = path.relative_to(source)
            shipped = path.suffix == ".py" or relative.as_posix().startswith(f"{ASSETS}/")
            if path.is_file() and shipped:
                (into / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, into / relative)
    with (source / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    info = into / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(metadata(project), encoding="utf-8")


def check(folder: Path) -> list[str]:
    """Import every module of the product from *folder* and Debian's packages only.

    Returns what is wrong, in sentences. Changes ``sys.path`` for good.
    """
    problems = unmet(folder, Path(DEBIAN_MODULES))
    standard = [path for path in sys.path if "-packages" not in path and path != sys.path[0]]
    sys.path[:] = [str(folder), *standard, DEBIAN_MODULES]
    sys.dont_write_bytecode = True
    for package in PRODUCT:
        for found in pkgutil.walk_packages([str(folder / package)], f"{package}."):
            try:
                module = importlib.import_module(found.name)
            except ImportError as error:
                problems.append(f"{found.name}: {error}")
                continue
            if not str(module.__file__).startswith(str(folder)):
                problems.append(f"{found.name} comes from {module.__file__}")
    return problems


def main(argv: Sequence[str]) -> int:
    """Run one step; returns the exit status."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="The private libraries of the .deb.")
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("fetch", help="download the wheels")
    step.add_argument("into", type=Path)
    step = steps.add_parser("install", help="install wheels and product")
    step.add_argument("wheels", type=Path)
    step.add_argument("into", type=Path)
    step.add_argument("licences", type=Path)
    step = steps.add_parser("check", help="import every module of the product")
    step.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    try:
        if args.step == "check":
            problems = check(args.folder.resolve())
            print("\n".join(problems) or "every module can be imported")  # noqa: T201 - its answer
            return 1 if problems else 0
        lock = (here.parent / "requirements.lock").read_text(encoding="utf-8")
        names = read_names((here / "bundled.txt").read_text(encoding="utf-8"))
        wanted = pinned(lock, names)
        if args.step == "fetch":
            fetch(wanted, args.into)
        else:
            install(wanted, args.wheels, args.into, args.licences)
            copy_product(here.parent, args.into)
    except BundleError as error:
        print(f"bundle.py: {error}", file=sys.stderr)  # noqa: T201 - for the operator
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
