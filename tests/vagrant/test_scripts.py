"""The provisioning scripts, with a barenode and an apt that only this test has."""

import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.vagrant.support import SCRIPTS, run

TOKEN = "abcdef.0123456789abcdef"  # noqa: S105 - of no cluster
LINE = f"barenode join 192.168.56.10:6443 --token {TOKEN} --ca-hash sha256:00ff"

BARENODE = """#!/bin/sh
printf '%s\\n' "$@" END >>"$CALLS"
case $1 in
    init) echo "progress" >&2; echo "$LINE"; exit "${INIT:-0}" ;;
    token) echo "$LINE"; exit "${CREATE:-0}" ;;
    join) exit "${JOIN:-0}" ;;
esac
"""

# Knows what is installed ($STATE/version, sums of the package's files), what is missing
# ($STATE/missing, $STATE/recommended: names) and whether there is a network ($STATE/network).
APT = """#!/bin/sh
simulate= recommends=1 command= deb=
for word in "$@"; do
    case $word in
        -s) simulate=1 ;;
        --no-install-recommends) recommends= ;;
        update | install) command=$word ;;
        /*) deb=$word ;;
    esac
done
[ "$simulate" ] || echo "$*" >>"$CALLS"
if [ "$command" = update ]; then
    [ -e "$STATE/network" ]
    exit
fi
wanted=$(cat "$STATE/missing" 2>/dev/null)
[ -z "$recommends" ] || wanted="$wanted $(cat "$STATE/recommended" 2>/dev/null)"
if [ "$simulate" ]; then
    [ -z "${BLIND-}" ] || exit 100
    for name in $wanted barenode; do echo "Inst $name (1 Debian:12 [all])"; done
    exit 0
fi
if [ "${wanted# }" ] && [ ! -e "$STATE/network" ]; then echo "E: cannot fetch" >&2; exit 100; fi
dpkg-deb -f "$deb" Version >"$STATE/version"
"""
QUERY = """#!/bin/sh
[ -e "$STATE/version" ] || exit 1
case $1 in
    --control-show) cat "$STATE/md5sums" 2>/dev/null ;;
    *) printf 'ii %s' "$(cat "$STATE/version")" ;;
esac
"""
ID = "#!/bin/sh\necho ${USER_ID:-0}\n"


@dataclass(frozen=True, slots=True)
class Host:
    """A host whose commands are this test's."""

    folder: Path

    def run(
        self, script: str, *words: str, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a script of the lab with the shell that Debian has as /bin/sh."""
        path = f"{self.folder / 'bin'}:/usr/bin:/bin:/usr/sbin:/sbin"
        state = {"CALLS": str(self.folder / "calls"), "STATE": str(self.folder), "LINE": LINE}
        return run(["dash", str(SCRIPTS / script), *words], {"PATH": path, **state, **environment})

    def calls(self) -> list[str]:
        """What was called, one line for each word or call."""
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "bin").mkdir()
    tools = {"barenode": BARENODE, "apt-get": APT, "dpkg-query": QUERY, "id": ID}
    for name, text in tools.items():
        file = tmp_path / "bin" / name
        file.write_text(text)
        file.chmod(0o755)
    return Host(tmp_path)


def package(folder: Path, name: str = "barenode", version: str = "0.1.0") -> Path:
    """A Debian package without files."""
    tree = folder / f"tree-{name}-{version}"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
        "Maintainer: Nobody <nobody@example.com>\nDescription: for a test\n"
    )
    target = folder / f"{name}_{version}_all.deb"
    done = run(["dpkg-deb", "-b", str(tree), str(target)], {"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    return target


def installs(host: Host) -> list[str]:
    """apt's calls, without what all of them have."""
    return [call.split("--allow-downgrades ", 1)[1] for call in host.calls()]


def test_scripts_are_plain_posix_shell() -> None:
    scripts = sorted(SCRIPTS.parent.rglob("*.sh"))
    assert [path.name for path in scripts] == [
        "cluster.sh",
        "install.sh",
        "master.sh",
        "worker.sh",
    ]
    argv = ["shellcheck", "--shell=sh", *map(str, scripts)]
    done = run(argv, {"PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stdout) == (0, "")
    assert all(path.stat().st_mode & stat.S_IXOTH for path in scripts)


@pytest.mark.parametrize(
    ("script", "words"),
    [("install.sh", ()), ("master.sh", ("192.168.56.10",)), ("worker.sh", ("a", "b"))],
)
def test_wrong_usage_exits_2_and_shows_the_right_one(
    host: Host, script: str, words: tuple[str, ...]
) -> None:
    done = host.run(script, *words)
    assert done.returncode == 2
    assert f"usage: {script} " in done.stderr
    assert host.calls() == []


class TestMaster:
    def test_init_gets_the_address_and_the_options(self, host: Host, tmp_path: Path) -> None:
        done = host.run("master.sh", "192.168.56.10", f"{tmp_path}/join", "--name", "a b")
        assert done.returncode == 0
        assert host.calls() == [
            *("init", "--address", "192.168.56.10", "--name", "a b", "END"),
            *("token", "create", "--print-join-command", "END"),
        ]

    def test_the_line_is_for_root_alone_and_in_no_output(self, host: Host, tmp_path: Path) -> None:
        file = tmp_path / "join"
        file.write_text("of another day, with a mode that lets others read it")
        file.chmod(0o644)
        done = host.run("master.sh", "192.168.56.10", str(file))
        assert file.read_text() == LINE + "\n"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert TOKEN not in done.stdout + done.stderr
        assert "progress" in done.stderr
        assert not (tmp_path / "join.new").exists()

    def test_a_failed_init_ends_it_with_its_status(self, host: Host, tmp_path: Path) -> None:
        done = host.run("master.sh", "192.168.56.10", f"{tmp_path}/join", INIT="5")
        assert done.returncode == 5
        assert not (tmp_path / "join").exists()

    def test_a_failed_token_leaves_the_former_line(self, host: Host, tmp_path: Path) -> None:
        file = tmp_path / "join"
        file.write_text("former")
        done = host.run("master.sh", "192.168.56.10", str(file), CREATE="1")
        assert (done.returncode, file.read_text()) == (1, "former")
        assert not (tmp_path / "join.new").exists()


class TestWorker:
    @pytest.mark.parametrize("end", ["\n", "", "\n\n"])
    def test_the_words_of_the_line_go_to_join_as_they_are(
        self, host: Host, tmp_path: Path, end: str
    ) -> None:
        file = tmp_path / "join"
        file.write_text(f"barenode join 192.168.56.10:6443 --name $(id);* `id`{end}")
        done = host.run("worker.sh", str(file))
        assert done.returncode == 0, done.stderr
        words = ["join", "192.168.56.10:6443", "--name", "$(id);*", "`id`", "END"]
        assert host.calls() == words

    def test_the_token_is_in_no_output(self, host: Host, tmp_path: Path) -> None:
        file = tmp_path / "join"
        file.write_text(LINE + "\n")
        done = host.run("worker.sh", str(file))
        assert TOKEN not in done.stdout + done.stderr
        assert "barenode join 192.168.56.10:6443" in done.stdout

    def test_the_status_is_that_of_join(self, host: Host, tmp_path: Path) -> None:
        file = tmp_path / "join"
        file.write_text(LINE + "\n")
        assert host.run("worker.sh", str(file), JOIN="4").returncode == 4

    @pytest.mark.parametrize(
        "text", ["", "\n", "reboot\n", "barenode join\n", f"{LINE}\n{LINE}\n", f"sudo {LINE}\n"]
    )
    def test_anything_but_one_join_line_is_refused(
        self, host: Host, tmp_path: Path, text: str
    ) -> None:
        file = tmp_path / "join"
        file.write_text(text)
        done = host.run("worker.sh", str(file))
        assert done.returncode == 1
        assert str(file) in done.stderr
        assert host.calls() == []

    def test_a_file_that_is_not_there_is_named(self, host: Host, tmp_path: Path) -> None:
        done = host.run("worker.sh", f"{tmp_path}/join")
        assert (done.returncode, done.stderr) == (1, f"worker: {tmp_path}/join: cannot be read\n")


class TestInstall:
    def test_where_all_is_there_apt_fetches_nothing(self, host: Host, tmp_path: Path) -> None:
        deb = package(tmp_path)
        done = host.run("install.sh", str(deb))
        assert done.returncode == 0, done.stderr
        assert installs(host) == [f"install {deb}"]

    def test_what_is_missing_is_fetched_by_fresh_lists(self, host: Host, tmp_path: Path) -> None:
        deb = package(tmp_path)
        (tmp_path / "missing").write_text("docker.io")
        (tmp_path / "network").touch()
        assert host.run("install.sh", str(deb)).returncode == 0
        lists = "-o APT::Update::Error-Mode=any update"
        assert installs(host) == [lists, f"install {deb}"]

    def test_without_network_it_does_without_what_is_only_recommended(
        self, host: Host, tmp_path: Path
    ) -> None:
        deb = package(tmp_path)
        (tmp_path / "recommended").write_text("kubernetes-client")
        done = host.run("install.sh", str(deb))
        assert done.returncode == 0, done.stderr
        assert installs(host)[-1] == f"install --no-install-recommends {deb}"
        assert "without what barenode only recommends" in done.stdout

    def test_without_network_a_missing_dependency_is_a_failure(
        self, host: Host, tmp_path: Path
    ) -> None:
        (tmp_path / "missing").write_text("docker.io")
        done = host.run("install.sh", str(package(tmp_path)))
        assert done.returncode == 1
        assert "E: cannot fetch" in done.stderr
        assert "Is there a way to Debian's archive?" in done.stderr

    def test_empty_lists_under_which_apt_sees_no_way_are_fetched(
        self, host: Host, tmp_path: Path
    ) -> None:
        (tmp_path / "network").touch()
        deb = package(tmp_path)
        assert host.run("install.sh", str(deb), BLIND="1").returncode == 0
        assert [call.split()[-1] for call in installs(host)] == ["update", str(deb)]

    def test_a_second_time_does_nothing(self, host: Host, tmp_path: Path) -> None:
        deb = package(tmp_path)
        host.run("install.sh", str(deb))
        done = host.run("install.sh", str(deb))
        assert (done.returncode, done.stdout) == (0, "install: barenode 0.1.0 is installed\n")
        assert len(host.calls()) == 1

    def test_the_same_version_with_other_files_is_installed_again(
        self, host: Host, tmp_path: Path
    ) -> None:
        deb = package(tmp_path)
        host.run("install.sh", str(deb))
        (tmp_path / "md5sums").write_text("d41d8cd98f00b204e9800998ecf8427e  usr/bin/netd\n")
        assert host.run("install.sh", str(deb)).returncode == 0
        assert installs(host)[-1] == f"install --reinstall {deb}"

    def test_another_version_is_installed(self, host: Host, tmp_path: Path) -> None:
        host.run("install.sh", str(package(tmp_path)))
        older = package(tmp_path, version="0.0.9")
        assert host.run("install.sh", str(older)).returncode == 0
        assert installs(host)[-1] == f"install {older}"

    def test_apt_never_asks_and_keeps_the_operators_files(self, host: Host, tmp_path: Path) -> None:
        host.run("install.sh", str(package(tmp_path)))
        (call,) = host.calls()
        for word in ("-y", "Dpkg::Options::=--force-confold", "DPkg::Lock::Timeout=600"):
            assert word in call.split()

    def test_another_package_is_refused(self, host: Host, tmp_path: Path) -> None:
        done = host.run("install.sh", str(package(tmp_path, name="other")))
        assert done.returncode == 1
        assert "is the package other, not barenode" in done.stderr
        assert host.calls() == []

    def test_what_is_no_package_is_refused(self, host: Host, tmp_path: Path) -> None:
        file = tmp_path / "x.deb"
        file.write_text("no")
        done = host.run("install.sh", str(file))
        assert (done.returncode, done.stderr) == (1, f"install: {file} is not a Debian package\n")

    def test_root_is_needed(self, host: Host, tmp_path: Path) -> None:
        done = host.run("install.sh", str(package(tmp_path)), USER_ID="1000")
        assert (done.returncode, done.stderr) == (5, "install: root is needed\n")


class TestEmulated:
    """What cluster.sh says before it does anything."""

    @pytest.fixture
    def dist(self, host: Host, tmp_path: Path) -> Path:
        for name in ("qemu-system-x86_64", "mmdebstrap"):
            tool = tmp_path / "bin" / name
            tool.write_text('#!/bin/sh\necho "$0" >>"$CALLS"\n')
            tool.chmod(0o755)
        (tmp_path / "dist/images").mkdir(parents=True)
        return tmp_path / "dist"

    def test_without_package_or_images_it_says_how_to_get_them(
        self, host: Host, dist: Path
    ) -> None:
        said = []
        for name in ("barenode_0.1.0_all.deb", "images/hyperkube.tar", "images/etcd.tar"):
            done = host.run("../qemu/cluster.sh", BARENODE_DIST=str(dist))
            assert done.returncode == 5
            said.append(done.stderr)
            (dist / name).touch()
        assert "'make deb'" in said[0]
        assert f"'barenode image build hyperkube -o {dist}/images/hyperkube.tar'" in said[1]
        assert f"'barenode image build etcd -o {dist}/images/etcd.tar'" in said[2]
        assert host.calls() == []

    def test_wrong_settings_are_named(self, host: Host, dist: Path) -> None:
        for settings in ({"WORKERS": "two"}, {"WORKERS": "9"}, {"MEMORY": "3G"}):
            done = host.run("../qemu/cluster.sh", BARENODE_DIST=str(dist), **settings)
            assert done.returncode == 2
            assert next(iter(settings)) in done.stderr

    def test_root_is_needed(self, host: Host, dist: Path) -> None:
        done = host.run("../qemu/cluster.sh", BARENODE_DIST=str(dist), USER_ID="1000")
        assert (done.returncode, "root is needed" in done.stderr) == (5, True)
