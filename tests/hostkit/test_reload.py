"""SIGHUP: what makes a daemon begin anew, what it says, and how it replaces itself."""

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from hostkit.config import Option, Settings, integer, load, text
from hostkit.errors import HostkitError
from hostkit.problems import Problems
from hostkit.reload import PROBLEM, Reload, changes

ROOT = Path(__file__).parents[2]

OPTIONS = (
    Option("config", text, "", "file with settings"),
    Option("master", text, "", "API server"),
    Option("password", text, "", "password", secret=True),
    Option("port", integer(0, 65535), 10249, "port"),
    Option("kubeconfig", text, "", "file"),
)


class Daemon:
    """A daemon with a file of settings, which takes what it names once."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.problems = Problems()
        self.access: dict[str, object] = {"kubeconfig": "one"}
        self.reload = Reload(self.read(), self.read, self.problems, files=self.files)

    def read(self) -> Settings:
        """The settings on disk."""
        return load(OPTIONS, [f"--config={self.file}"], {}, env_prefixes=())

    def files(self, settings: Settings) -> Mapping[str, object]:
        """What a named file says; one name cannot be read."""
        if settings["kubeconfig"] == "/bad":
            raise HostkitError(f"{settings.origins['kubeconfig']}: kubeconfig: cannot read /bad")
        return dict(self.access)


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    file = tmp_path / "netd.toml"
    file.write_text("port = 1\nmaster = 'http://a'\npassword = 'old-secret'\n")
    return Daemon(file)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def test_the_same_settings_change_nothing_also_from_another_file(
    daemon: Daemon, told: pytest.LogCaptureFixture
) -> None:
    fragments = daemon.file.parent / "conf.d"
    fragments.mkdir()
    daemon.file.rename(fragments / "50-cluster.toml")
    daemon.file.write_text("# nothing\n")
    assert daemon.reload() is False
    assert told.messages == ["settings: nothing changed"]


def test_changed_settings_are_named_with_both_values_and_their_origin_but_no_secret(
    daemon: Daemon, told: pytest.LogCaptureFixture
) -> None:
    daemon.file.write_text("port = 2\npassword = 'new-secret'\n")
    assert daemon.reload() is True
    assert told.messages == [
        "settings: master is now (none), was http://a (default)",
        f"settings: password is now (hidden), was (hidden) ({daemon.file})",
        f"settings: port is now 2, was 1 ({daemon.file})",
    ]
    assert "secret" not in told.text


def test_settings_that_cannot_be_used_are_a_problem_until_they_can(
    daemon: Daemon, told: pytest.LogCaptureFixture
) -> None:
    good = daemon.file.read_text()
    daemon.file.write_text("port = 123456\n")
    for _ in range(2):
        assert daemon.reload() is False
    (problem,) = daemon.problems.all()
    assert problem.key == PROBLEM
    assert problem.text == (
        f"{daemon.file}: port is '123456': use a whole number from 0 to 65535; "
        "those read before stay in force"
    )
    assert not problem.blocking
    assert len(told.messages) == 1, "one line, however often it is asked"
    daemon.file.write_text(good)
    assert daemon.reload() is False
    assert daemon.problems.all() == ()


def test_a_file_that_they_name_and_that_cannot_be_used_is_a_problem(daemon: Daemon) -> None:
    daemon.file.write_text("kubeconfig = '/bad'\n")
    assert daemon.reload() is False
    (problem,) = daemon.problems.all()
    assert f"{daemon.file}: kubeconfig: cannot read /bad" in problem.text


def test_settings_from_a_pipe_stay_for_they_cannot_be_read_again(
    daemon: Daemon, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reload = Reload(daemon.read(), daemon.read, daemon.problems, file=str(pipe))
    assert reload() is False
    assert f"{pipe}: a pipe cannot be read again" in daemon.problems.all()[0].text


def test_another_content_of_a_file_that_is_read_once_counts_as_a_change(
    daemon: Daemon, told: pytest.LogCaptureFixture
) -> None:
    daemon.access = {"kubeconfig": "two"}
    assert daemon.reload() is True
    assert told.messages == ["settings: the file that kubeconfig names has changed"]


def test_a_secret_that_is_taken_away_is_shown_to_be_gone(daemon: Daemon) -> None:
    old = daemon.read()
    daemon.file.write_text("port = 1\nmaster = 'http://a'\n")
    assert changes(old, daemon.read()) == ["password is now (none), was (hidden) (default)"]


AGAIN = """\
import os, signal, sys
from hostkit.reload import begin_anew
name = open("/proc/self/comm").read().strip()
blocked = signal.SIGHUP in signal.pthread_sigmask(signal.SIG_BLOCK, ())
print(os.getpid(), name, sys.argv[1:], sys.flags.isolated, blocked, flush=True)
if "AGAIN" in os.environ:
    del os.environ["AGAIN"]
    held = os.open("/dev/null", os.O_RDONLY)
    os.environ["HELD"] = str(held)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    os.kill(os.getpid(), signal.SIGHUP)
    begin_anew()
print(os.path.exists("/proc/self/fd/" + os.environ["HELD"]), signal.sigpending() != set())
"""


@pytest.mark.parametrize("direct", [True, False])
def test_the_process_replaces_itself_with_its_name_arguments_and_pending_signals(
    tmp_path: Path, direct: bool
) -> None:
    """Same pid, same name, same flags of Python; descriptors are closed."""
    script = tmp_path / "netd-of-a-long-name"
    script.write_text(f"#!{sys.executable} -I\nimport sys; sys.path.append({str(ROOT)!r})\n{AGAIN}")
    script.chmod(0o755)
    command = [str(script)] if direct else [sys.executable, "-I", str(script)]
    done = subprocess.run(
        [*command, "run", "--a=b c"], env={**os.environ, "AGAIN": "1"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second, last = done.stdout.splitlines()
    assert first.removesuffix("False") == second.removesuffix("True")
    assert "['run', '--a=b c'] 1 " in second
    assert ("netd-of-a-long-" in second) is direct
    assert last == "False True"
