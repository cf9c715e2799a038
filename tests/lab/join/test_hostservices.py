"""netd, Docker and nodeagent are brought up in their order, and say what keeps them."""

import json
from pathlib import Path

import pytest

from lab.errors import LabError, PrerequisiteError
from lab.join.hostservices import (
    DOCKER,
    NETD,
    NODEAGENT,
    bring_up,
    docker_differs,
    stop_unit,
)
from tests.lab.join.booted import BRIDGE, FakeUnit, Machine

OPTIONS = 'DOCKER_OPT_BIP="--bip=10.1.2.1/24"\nDOCKER_OPT_MTU="--mtu=1450"\n'
FOLLOWS = {
    "IPAM": {"Config": [{"Subnet": "10.1.2.0/24", "Gateway": "10.1.2.1"}]},
    "Options": {"com.docker.network.driver.mtu": "1450"},
}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A booted host on which netd wrote its options."""
    made = Machine(tmp_path)
    made.write_options("10.1.2.1/24")
    return made


async def up(machine: Machine, *, timeout: float = 60, restart: bool = True) -> None:
    """What init and join do."""
    await bring_up(
        machine,
        machine.report,
        timeout=timeout,
        restart=restart,
        systemd=machine.systemd,
        docker_env=machine.options,
    )


def verbs(machine: Machine, verb: str) -> list[str]:
    """The units to which *verb* was done, in their order."""
    return [argv[-1] for argv in machine.ran if argv[:2] == ("systemctl", verb)]


async def test_all_are_enabled_and_up_and_docker_follows_netd(machine: Machine) -> None:
    """Docker was up on its own bridge before."""
    await up(machine)
    assert verbs(machine, "restart") == [NETD, DOCKER, NODEAGENT]
    assert verbs(machine, "enable") == [NETD, NODEAGENT]
    assert {unit.active for unit in machine.units.values()} == {"active"}
    (line,) = [text for subject, text in machine.said if subject == "docker"]
    assert "restarting" in line
    assert "172.17.0.0/16, not 10.1.2.1/24" in line


async def test_a_docker_on_the_right_bridge_is_left_alone(machine: Machine) -> None:
    """Its containers go on."""
    machine.bridge = FOLLOWS
    await up(machine)
    assert verbs(machine, "restart") == [NETD, NODEAGENT]


async def test_a_stopped_docker_is_started(machine: Machine) -> None:
    """It reads netd's options then."""
    machine.units[DOCKER].active = "inactive"
    await up(machine)
    assert verbs(machine, "restart") == [NETD, DOCKER, NODEAGENT]


async def test_running_services_are_left_alone_unless_settings_changed(machine: Machine) -> None:
    """A repeated join disturbs nothing."""
    await up(machine)
    machine.ran.clear()
    await up(machine, restart=False)
    assert verbs(machine, "restart") == []
    await up(machine)
    assert verbs(machine, "restart") == [NETD, NODEAGENT]


async def test_what_netd_waits_for_is_shown_once_each(machine: Machine) -> None:
    """Its start has no limit of time."""
    wait = ("activating", "waiting for etcd")
    machine.units[NETD].course = [wait, wait, ("activating", "leasing"), ("active", "10.1.2.0/24")]
    await up(machine)
    said = [text for subject, text in machine.said if subject == "netd"]
    assert said[1:] == ["waiting for etcd", "leasing", "10.1.2.0/24"]


async def test_a_netd_that_stays_away_is_named_with_what_it_waits_for(machine: Machine) -> None:
    """Nothing after it is started."""
    machine.units[NETD].course = [("activating", "etcd does not answer")] * 1000
    with pytest.raises(LabError, match=r"not up after 20 s: etcd does not answer; see 'journalctl"):
        await up(machine, timeout=20)
    assert verbs(machine, "restart") == [NETD]


async def test_a_unit_that_fails_shows_the_end_of_its_journal(machine: Machine) -> None:
    """At once, without waiting for the time-out."""
    machine.units[NETD] = FakeUnit(course=[("failed", "")], journal="netd: no interface\nbye\n")
    with pytest.raises(LabError, match=r"netd.service does not start: netd: no interface \| bye"):
        await up(machine, timeout=10_000)
    assert machine.time < 10


async def test_a_unit_that_said_nothing_shows_what_systemd_says(machine: Machine) -> None:
    """Such as a program that is not there; or where to look."""
    netd = machine.units[NETD] = FakeUnit(course=[("failed", "")], of_systemd="Failed at EXEC\n")
    with pytest.raises(LabError, match="does not start: Failed at EXEC"):
        await up(machine)
    netd.of_systemd = ""
    with pytest.raises(LabError, match="journal is empty: 'systemctl status"):
        await up(machine)


async def test_a_unit_that_is_restarted_again_and_again_counts_as_failed(machine: Machine) -> None:
    """systemd's own limit may come late or never."""
    machine.units[NETD] = FakeUnit(course=[("auto-restart", "")] * 100, journal="bad setting\n")
    with pytest.raises(LabError, match="does not start: bad setting"):
        await up(machine, timeout=10_000)
    assert machine.time < 10


async def test_a_restart_waits_for_the_new_process(machine: Machine) -> None:
    """The old one is still up when systemd is looked at first."""
    netd = machine.units[NETD]
    await up(machine)
    before = netd.invocation
    netd.course = [("activating", ""), ("active", "second")]
    await up(machine)
    assert (netd.invocation, netd.status) == (before + 1, "second")


async def test_changed_unit_files_are_read_first(machine: Machine) -> None:
    """An upgrade may have replaced them."""
    machine.units[DOCKER].stale = True
    await up(machine)
    assert ("systemctl", "daemon-reload") in machine.ran


@pytest.mark.parametrize(
    ("load", "text"), [("not-found", "not installed"), ("masked", "systemctl unmask netd")]
)
async def test_a_unit_that_cannot_start_is_named_with_the_way_out(
    machine: Machine, load: str, text: str
) -> None:
    """Before systemd is asked to start it."""
    machine.units[NETD].load = load
    with pytest.raises(PrerequisiteError, match=text):
        await up(machine)


async def test_without_systemd_nothing_is_tried(machine: Machine) -> None:
    """The sentence says what else can be done."""
    (machine.root / "run/systemd/system").rmdir()
    with pytest.raises(PrerequisiteError, match="not booted by systemd"):
        await up(machine)
    assert machine.ran == []


async def test_options_that_netd_did_not_write_are_named(machine: Machine) -> None:
    """docker-env-file may be set to something else."""
    machine.options.unlink()
    with pytest.raises(LabError, match="docker-env-file"):
        await up(machine)


async def test_a_unit_that_is_stopped_is_disabled_too(machine: Machine) -> None:
    """The next boot must not start it."""
    await up(machine)
    outcome = await stop_unit(machine.systemd, NETD)
    assert outcome.ok
    assert (machine.units[NETD].active, machine.units[NETD].enabled) == ("inactive", False)


async def test_units_that_are_not_there_are_no_failure_of_a_stop(machine: Machine) -> None:
    """The package may have been removed."""
    machine.units[NETD].load = "not-found"
    assert (await stop_unit(machine.systemd, NETD)).ok
    (machine.root / "run/systemd/system").rmdir()
    assert (await stop_unit(machine.systemd, NODEAGENT)).ok


async def test_a_unit_that_does_not_stop_is_a_failure_by_name(machine: Machine) -> None:
    """The other steps go on."""
    machine.refused = {("stop", NETD)}
    outcome = await stop_unit(machine.systemd, NETD)
    assert not outcome.ok
    assert "Failed to stop netd.service" in outcome.result


@pytest.mark.parametrize(
    ("options", "network", "text"),
    [
        (OPTIONS, json.dumps([FOLLOWS]), ""),
        ("", json.dumps([BRIDGE]), ""),
        (OPTIONS, json.dumps([BRIDGE]), "its bridge is 172.17.0.0/16, not 10.1.2.1/24"),
        (OPTIONS.replace("1450", "1400"), json.dumps([FOLLOWS]), "its mtu is 1450, not 1400"),
        (OPTIONS, json.dumps([{**FOLLOWS, "Options": None}]), ""),
        (
            OPTIONS,
            json.dumps([{"IPAM": {"Config": [{"Subnet": "10.1.2.0/24"}]}, "Options": {}}]),
            "",
        ),
        (
            OPTIONS,
            json.dumps([{"IPAM": {"Config": [{"Subnet": "10.1.2.0/24", "Gateway": "10.1.2.9"}]}}]),
            "not 10.1.2.1/24",
        ),
        (OPTIONS, json.dumps([{"IPAM": {"Config": None}}]), "without addresses"),
        (OPTIONS, "[]", "cannot be read"),
        (OPTIONS, "", "cannot be read"),
        (OPTIONS, '[{"IPAM": []}]', "cannot be read"),
    ],
)
def test_a_docker_with_other_options_is_recognised(options: str, network: str, text: str) -> None:
    """By address, MTU and masquerading; what cannot be read counts as another one."""
    assert text in docker_differs(options, network)
    assert bool(text) == bool(docker_differs(options, network))
