"""The package's lists agree with the project: libraries, versions, conffiles, scripts."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
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


SYSTEMCTL = """#!/bin/sh
echo "$*" >>"$CALLS"
[ "$1 $2" != "--quiet is-active" ] || grep -qx "$3" "$ACTIVE"
"""


class Booted:
    """postinst on a host with systemd, of which *active* units run.

    *stopped* are those that prerm has stopped at a removal.
    """

    def __init__(self, folder: Path, *, active: Sequence[str] = (), stopped: Sequence[str] = ()):
        self.removed = folder / "removed"
        self.calls = folder / "calls"
        self._folder = folder
        (folder / "booted").mkdir()
        (folder / "bin").mkdir()
        (folder / "active").write_text("".join(f"{name}\n" for name in active))
        if stopped:
            self.removed.mkdir()
            (self.removed / "running").write_text("".join(f"{name}\n" for name in stopped))
        self.command("systemctl", SYSTEMCTL)
        for daemon in ("netd", "nodeagent"):
            self.command(daemon, "#!/bin/sh\n")
        self.command("policy", "#!/bin/sh\n")

    def command(self, name: str, text: str) -> None:
        """Put a command in place of the host's."""
        file = self._folder / "bin" / name
        file.write_text(text)
        file.chmod(0o755)

    def run(self, *argv: str) -> str:
        """What the script says on stderr."""
        text = (DEBIAN / "postinst").read_text()
        for there, here in {
            "/run/systemd/system": "booted",
            "/var/lib/barenode/removed": "removed",
            "/usr/sbin/policy-rc.d": "bin/policy",
            "/usr/bin/": "bin/",
            "/lib/systemd/systemd-": "none/",
        }.items():
            text = text.replace(there, f"{self._folder}/{here}")
        script = self._folder / "script"
        script.write_text(text)
        done = subprocess.run(
            ["/bin/sh", str(script), *argv],
            capture_output=True, text=True, check=False, timeout=60,
            env={
                "PATH": f"{self._folder}/bin:/usr/bin:/bin",
                "CALLS": str(self.calls), "ACTIVE": str(self._folder / "active"),
            },
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr

    def asked(self, verb: str) -> list[str]:
        """The units that systemd was asked to *verb*, in their order."""
        words = [line.split() for line in self.calls.read_text().splitlines()]
        return [line[-1] for line in words if verb in line]


@pytest.mark.parametrize("call", [("configure", "0.1.0"), ("abort-remove",)])
def test_what_a_removal_has_stopped_runs_again(call: tuple[str, ...], tmp_path: Path) -> None:
    """netd before nodeagent; and the copy for a purge goes."""
    host = Booted(tmp_path, stopped=("nodeagent.service", "netd.service"))
    assert host.run(*call) == ""
    assert host.asked("start") == ["netd.service", "nodeagent.service"]
    assert not host.removed.exists()


def test_an_upgrade_starts_nothing_that_the_operator_stopped(tmp_path: Path) -> None:
    """systemd restarts what runs, and is not asked for a start."""
    host = Booted(tmp_path, active=("netd.service",))
    assert host.run("configure", "0.0.9") == ""
    assert host.asked("start") == []
    assert host.asked("try-restart") == ["netd.service", "nodeagent.service"]


def test_what_the_policy_forbids_is_not_started(tmp_path: Path) -> None:
    """101 is its no, invoke-rc.d's protocol."""
    host = Booted(tmp_path, stopped=("netd.service",))
    host.command("policy", "#!/bin/sh\nexit 101\n")
    host.run("configure", "0.1.0")
    assert host.asked("start") == host.asked("try-restart") == []


def test_an_upgrade_says_of_refused_settings_that_they_hold_a_daemon_up(tmp_path: Path) -> None:
    """In the terminal, where the operator looks; a daemon that does not run is not asked."""
    host = Booted(tmp_path, active=("netd.service",))
    for daemon in ("netd", "nodeagent"):
        host.command(daemon, f"#!/bin/sh\necho '{daemon}: v: no number' >&2\nexit 2\n")
    said = host.run("configure", "0.0.9")
    assert said == "barenode: netd starts again when this is mended: netd: v: no number\n"
    assert host.asked("try-restart") == ["netd.service", "nodeagent.service"]


@pytest.mark.parametrize(("docker", "status"), [(True, 1), (False, 0)])
def test_a_purge_fails_for_what_another_try_may_remove(
    docker: bool, status: int, tmp_path: Path
) -> None:
    """And not when Docker, which would have to remove its containers, is gone with the package."""
    (tmp_path / "booted").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "state/removed/lib").mkdir(parents=True)
    (tmp_path / "state/removed/running").write_text("netd.service\n")
    commands = {
        "python3": '#!/bin/sh\ncase "$*" in *" reset "*) exit 1 ;; esac\n',
        "systemctl": "#!/bin/sh\n",
        **({"dockerd": "#!/bin/sh\n"} if docker else {}),
    }
    for name, text in commands.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    for name in ("find", "grep", "ls", "mkdir", "touch", "rm", "rmdir", "cut"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)
    text = (DEBIAN / "postrm").read_text()
    text = text.replace("/run/systemd/system", f"{tmp_path}/booted")
    text = text.replace("/var/lib/barenode", f"{tmp_path}/state")
    text = text.replace("/usr/bin/python3", f"{tmp_path}/bin/python3")
    text = re.sub(r"(?<=[ \n\"])/(etc|run|var)/", f"{tmp_path}/none/", text)
    script = tmp_path / "postrm"
    script.write_text(text)
    done = subprocess.run(
        ["/bin/sh", str(script), "purge"],
        capture_output=True, text=True, check=False, timeout=60,
        env={"PATH": f"{tmp_path}/bin"},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert ("dpkg --purge barenode" in done.stderr) is docker
    assert ("Docker is not installed" in done.stderr) is not docker
    assert (tmp_path / "state/removed").exists() is docker


def _quiet(folder: Path, name: str) -> Path:
    """The script *name* as on a host without systemd."""
    text = (DEBIAN / name).read_text().replace("/run/systemd/system", str(folder / "none"))
    script = folder / name
    script.write_text(text)
    return script
