"""The package's lists agree with the project: libraries, versions, conffiles, scripts."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from netd.config import OPTIONS as NETD_OPTIONS
from netd.sysctls import NEEDED, OPTIONAL
from nodeagent.config import OPTIONS as NODEAGENT_OPTIONS

ROOT = Path(__file__).parents[2]
DEBIAN = ROOT / "packaging" / "debian"
PRODUCT = ("hostkit", "netd", "nodeagent", "lab")
SCRIPTS = ("postinst", "prerm", "postrm")

# Where a module's name is not that of its distribution.
_DISTRIBUTIONS = {"yaml": "pyyaml"}
# Debian's names for distributions (Debian Python Policy, 4.3, names packages by module).
_PACKAGES = {"pyyaml": "python3-yaml"}


def _bundled() -> set[str]:
    lines = (ROOT / "packaging" / "bundled.txt").read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def _field(name: str) -> str:
    text = (DEBIAN / "control").read_text()
    match = re.search(rf"^{name}:((?:.*)(?:\n[ \t].*)*)", text, re.MULTILINE)
    assert match is not None, f"debian/control has no {name}"
    return match[1]


def _depends() -> set[str]:
    entries = _field("Depends").split(",")
    return {re.split(r"[ (|]", entry.strip())[0] for entry in entries}


def _packaged(distribution: str) -> str:
    return _PACKAGES.get(distribution, f"python3-{distribution}")


def _imported() -> set[str]:
    found = set()
    for package in PRODUCT:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.Import):
                    found |= {name.name.partition(".")[0] for name in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - set(PRODUCT)


def _needed() -> dict[str, set[str]]:
    """Who needs what at run time, from the lock's comments, by distribution."""
    needs: dict[str, set[str]] = {}
    current = ""
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if match := re.match(r"([a-z0-9-]+)==", line):
            current = match[1]
        elif match := re.match(
            r"    #\s+(?:via\s+)?([a-zA-Z0-9._-]+)(?: \(pyproject.toml\))?$", line
        ):
            needs.setdefault(match[1].lower(), set()).add(current)
    return needs


def test_every_import_is_of_a_bundled_library_or_of_a_package_in_depends() -> None:
    missing = []
    for module in sorted(_imported()):
        name = module.replace("_", "-")
        distribution = _DISTRIBUTIONS.get(name, name)
        if distribution not in _bundled() and _packaged(distribution) not in _depends():
            missing.append(module)
    assert missing == []


def test_every_bundled_library_finds_what_it_needs_in_the_bundle_or_in_depends() -> None:
    needs = _needed()
    assert "frozenlist" in needs["aiohttp"], "the lock's comments are not read"
    missing = {
        (library, wanted)
        for library in _bundled()
        for wanted in needs.get(library, set())
        if wanted not in _bundled() and _packaged(wanted) not in _depends()
    }
    assert missing == set()


def test_nothing_is_bundled_without_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    reached = {re.split(r"[<>=!~ ]", one)[0] for one in project["dependencies"]} & _bundled()
    needs = _needed()
    while more := {wanted for one in reached for wanted in needs.get(one, set())} - reached:
        if not more & _bundled():
            break
        reached |= more & _bundled()
    assert reached == _bundled()


def test_what_the_bundle_has_is_no_dependency_as_well() -> None:
    assert {_packaged(library) for library in _bundled()} & _depends() == set()


def test_build_dependencies_are_installed_by_make_deb() -> None:
    listed = (ROOT / "packaging" / "apt-packages-deb.txt").read_text()
    installed = {line.split()[0] for line in listed.splitlines() if line and line[0] != "#"}
    wanted = {re.split(r"[ (:]", one.strip())[0] for one in _field("Build-Depends").split(",")}
    assert wanted - {"debhelper-compat"} <= installed
    assert "debhelper" in installed


def test_the_package_has_the_version_of_the_project() -> None:
    first = (DEBIAN / "changelog").read_text().splitlines()[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert first.startswith(f"{project['name']} ({project['version']}) ")


@pytest.mark.parametrize(
    ("file", "options"), [("netd.toml", NETD_OPTIONS), ("nodeagent.toml", NODEAGENT_OPTIONS)]
)
def test_settings_files_are_all_comments_and_name_real_settings(
    file: str, options: tuple[object, ...]
) -> None:
    text = (DEBIAN / file).read_text()
    assert tomllib.loads(text) == {}
    examples = re.findall(r"^#([a-z][a-z-]* = .*)$", text, re.MULTILINE)
    named = set(tomllib.loads("\n".join(examples)))
    assert len(named) == len(examples) >= 8
    assert named <= {getattr(one, "name", "") for one in options}


def test_the_environment_file_sets_nothing_and_names_real_settings() -> None:
    text = (DEBIAN / "barenode.default").read_text()
    assert all(line.startswith("#") for line in text.splitlines())
    names = re.findall(r"^#((?:NETD|NODEAGENT)_[A-Z_]+)=", text, re.MULTILINE)
    known = {f"NETD_{one.name}" for one in NETD_OPTIONS}
    known |= {f"NODEAGENT_{one.name}" for one in NODEAGENT_OPTIONS}
    assert names
    assert set(names) <= {name.upper().replace("-", "_") for name in known}


def test_the_sysctls_at_boot_are_those_that_netd_keeps() -> None:
    lines = (DEBIAN / "barenode.sysctl").read_text().splitlines()
    found = dict(line.split(" = ") for line in lines if line and line[0] != "#")
    assert found == {f"-{name}" if name in OPTIONAL else name: v for name, v in NEEDED.items()}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_maintainer_script_stops_at_an_error_and_takes_debhelpers_part(name: str) -> None:
    text = (DEBIAN / name).read_text()
    assert text.startswith("#!/bin/sh\n")
    assert "\nset -e\n" in text
    assert text.count("\n#DEBHELPER#\n") == 1
    assert (DEBIAN / name).stat().st_mode & 0o111


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_maintainer_script_refuses_an_unknown_call(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", str(_quiet(tmp_path, name)), "unheard-of"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "unheard-of" in done.stderr


def _quiet(folder: Path, name: str) -> Path:
    """The script *name* as on a host without systemd."""
    text = (DEBIAN / name).read_text().replace("/run/systemd/system", str(folder / "none"))
    script = folder / name
    script.write_text(text)
    return script
