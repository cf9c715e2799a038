"""Docker's drop-in: netd writes one where no other does its work, and takes it back elsewhere."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from hostkit.command import Completed
from hostkit.problems import Problems
from netd.bridge.options import drop_in
from netd.hostside import HostSide, Paths, Systemd

DEBIAN = "[Service]\nExecStart=/usr/sbin/dockerd -H fd:// $DOCKER_OPTS\n"
DOCKER_CE = "[Service]\nExecStart=/usr/bin/dockerd -H fd://\n"


class Systemctl:
    """A Runner that counts how often systemd read its units."""

    def __init__(self) -> None:
        self.reloads = 0

    async def run(
        self, argv: Sequence[str], *, stdin: str | None = None, timeout: float = 30.0,
        check: bool = True,
    ) -> Completed:  # fmt: skip
        assert list(argv) == ["systemctl", "daemon-reload"]
        self.reloads += 1
        return Completed(tuple(argv), 0, "", "")


class Host:
    """A host with systemd whose files are below *folder*."""

    def __init__(self, folder: Path) -> None:
        self.booted = folder / "run"
        self.booted.mkdir()
        self.ours = self.booted / "docker.service.d" / "50-netd.conf"
        self.env_file = folder / "docker_opts.env"
        self.unit = folder / "docker.service"
        self.static = folder / "static.conf"
        self.systemctl = Systemctl()

    def package(self) -> None:
        """The static drop-in, as a package brings it."""
        self.static.write_text(f"[Service]\nEnvironmentFile=-{self.env_file}\n")

    async def look(self) -> None:
        """One pass over the drop-in, by a netd that knows nothing of the last one."""
        paths = Paths(
            "docker0", self.booted / "subnet.env", self.env_file, self.ours,
            self.booted / "docker.sock",
            Systemd(self.booted, (self.booted / "none", self.unit), (self.static,)),
        )  # fmt: skip
        side = HostSide(self.systemctl, Problems(), paths, repaired=lambda _: None)
        await side._write_drop_in()

    def content(self) -> str:
        """Our drop-in, "" for none."""
        return self.ours.read_text() if self.ours.exists() else ""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("unit", [DEBIAN, ""])
async def test_where_the_package_s_drop_in_is_enough_nothing_is_written_nor_systemd_asked(
    host: Host, unit: str
) -> None:
    host.package()
    if unit:
        host.unit.write_text(unit)
    await host.look()
    assert not host.ours.parent.exists()
    assert host.systemctl.reloads == 0


async def test_without_the_package_s_drop_in_it_is_written_once(host: Host) -> None:
    host.unit.write_text(DEBIAN)
    for _ in range(2):
        await host.look()
    assert host.content() == drop_in(str(host.env_file), DEBIAN)
    assert host.systemctl.reloads == 1


async def test_a_unit_without_docker_s_options_gets_its_command_line_in_spite_of_the_package(
    host: Host,
) -> None:
    host.package()
    host.unit.write_text(DOCKER_CE)
    await host.look()
    assert "ExecStart=/usr/bin/dockerd -H fd:// $DOCKER_OPTS\n" in host.content()
    assert host.systemctl.reloads == 1


async def test_one_of_ours_is_taken_back_when_another_became_enough(host: Host) -> None:
    """An installed package, or docker.io in place of docker-ce."""
    host.unit.write_text(DOCKER_CE)
    await host.look()
    host.package()
    host.unit.write_text(DEBIAN)
    for _ in range(2):
        await host.look()
    assert host.content() == ""
    assert host.systemctl.reloads == 2


async def test_a_file_of_somebody_else_at_its_place_stays(host: Host) -> None:
    host.package()
    host.unit.write_text(DEBIAN)
    host.ours.parent.mkdir()
    host.ours.write_text("[Service]\nNice=5\n")
    await host.look()
    assert host.content() == "[Service]\nNice=5\n"
    assert host.systemctl.reloads == 0


async def test_where_systemd_does_not_run_the_host_nothing_is_written(host: Host) -> None:
    host.unit.write_text(DEBIAN)
    host.booted.rmdir()
    await host.look()
    assert not host.booted.exists()
