"""netd cleanup: every step by itself, and what one of them needs again is kept until it succeeds.

The steps that need a kernel are tested in tests/kernel; here they are told how to end.
"""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from hostkit.config import ConfigError, Settings
from hostkit.etcd.config import EtcdConfig
from netd import cleanup
from netd.bridge.options import Facts, subnet_env
from netd.cleanup import Cleanup, Step
from netd.config import etcd_config, load_settings
from netd.errors import BridgeError
from netd.iptables.flannel import forward
from netd.leases.model import LEASE_TTL
from netd.leases.peers import Record
from netd.state import State, load_state, save_state
from tests.fakes.etcd import FakeEtcd
from tests.fakes.iptables import FakeIptables
from tests.netd.leases.strategies import mac, record

SUBNET = IPv4Network("10.1.33.0/24")
LEASE_ID = 4711


class Host:
    """A host on which netd ran: its files, its record in etcd and its iptables."""

    def __init__(self, folder: Path, etcd: FakeEtcd) -> None:
        self.folder = folder
        self.etcd = etcd
        self.iptables = FakeIptables()
        self.state_file = folder / "lib" / "state.json"
        self.subnet_file = folder / "run" / "subnet.env"
        self.docker_env = folder / "docker_opts.env"
        self.drop_in = folder / "50-netd.conf"
        self.bridge_fault = ""
        self.overlay_fault = ""
        self.run_dir = folder / "netd"
        self.dropped: list[str] = []

    def drop(self, table: str, _chains: Sequence[str]) -> bool:
        """In place of the kernel."""
        self.dropped.append(table)
        return True

    def settings(self, *flags: str) -> Settings:
        """As an operator would give them."""
        return load_settings(
            [
                *flags,
                f"--etcd-endpoints={self.etcd.url}",
                f"--state-dir={self.state_file.parent}",
                f"--subnet-file={self.subnet_file}",
                f"--docker-env-file={self.docker_env}",
                f"--docker-drop-in={self.drop_in}",
                f"--run-dir={self.run_dir}",
            ],
            {"NETD_CONFIG": "/dev/null"},
        )

    def write_files(self) -> None:
        """The files of a netd that held 10.1.33.0/24 at 198.18.0.1."""
        state = State(vtep_mac=mac(1), subnet=str(SUBNET), public_ip="198.18.0.1")
        save_state(self.state_file, state)
        self.subnet_file.parent.mkdir()
        facts = Facts(IPv4Network("10.1.0.0/16"), SUBNET, 1450, True)
        self.subnet_file.write_text(subnet_env(facts))
        self.docker_env.write_text("x")
        self.drop_in.write_text("x")
        self.run_dir.mkdir()
        for name in ("netd.sock", "netd.lock"):
            (self.run_dir / name).touch()

    def write_record(self, one: Record) -> None:
        """*one* in etcd, under a lease unless it is a reservation."""
        lease_id = LEASE_ID if one.lease_id else 0
        if lease_id:
            self.etcd.store.call("lease/grant", {"ID": str(lease_id), "TTL": str(LEASE_TTL)})
        self.etcd.store.put(one.key, one.value, lease_id)

    async def clean(self, *flags: str) -> dict[str, Step]:
        """One ``netd cleanup``; its steps by name."""
        return {step.what: step for step in await _Cleanup(self, *flags).run()}

    def left(self) -> set[str]:
        """The names of what still lies below the folder."""
        return {path.name for path in self.folder.rglob("*")}


class _Cleanup(Cleanup):
    """A cleanup whose two steps in the kernel end as the host says."""

    def __init__(self, host: Host, *flags: str) -> None:
        super().__init__(host.settings(*flags), host.iptables, drop=host.drop)
        self._host = host

    async def _overlay(self) -> str:
        if self._host.overlay_fault:
            raise OSError(self._host.overlay_fault)
        return "removed"

    async def _bridge(self) -> str:
        if self._host.bridge_fault:
            raise BridgeError(self._host.bridge_fault)
        return "removed"


@pytest.fixture
async def etcd() -> AsyncIterator[FakeEtcd]:
    """An etcd in memory."""
    async with FakeEtcd() as made:
        yield made


@pytest.fixture
def host(tmp_path: Path, etcd: FakeEtcd) -> Host:
    """A host with files and a lease."""
    made = Host(tmp_path, etcd)
    made.write_files()
    made.write_record(record(str(SUBNET), 1))
    return made


async def test_lease_chains_and_files_go_and_a_second_run_finds_nothing(host: Host) -> None:
    table = host.iptables.table("filter")
    (jump,), (chain,) = forward(SUBNET).jumps, forward(SUBNET).chains
    table.chains[chain] = list(forward(SUBNET).chains[chain])
    table.chains["FORWARD"] = ["-i x -j ACCEPT", jump.rule]
    steps = await host.clean()
    assert all(step.ok for step in steps.values()), steps
    assert list(steps) == [
        "services", "lease", "overlay", "iptables", "docker0", "files", "tables", "run files",
        "sysctls",
    ]  # fmt: skip
    assert steps["lease"].result == "10.1.33.0/24 given back"
    assert (host.etcd.store.keys, host.etcd.store.leases) == ({}, {})
    assert host.iptables.table("filter").chains["FORWARD"] == ["-i x -j ACCEPT"]
    assert chain not in host.iptables.table("filter").chains
    assert host.left() == set()
    assert ("systemctl", "daemon-reload") in host.iptables.calls
    again = await host.clean()
    assert all(step.ok for step in again.values()), again
    assert [again[what].result for what in ("services", "lease", "iptables", "files")] == [
        "nothing of ours", "none known", "nothing of ours", "none",
    ]  # fmt: skip


async def test_what_a_killed_netd_left_goes_and_what_others_put_beside_it_stays(
    host: Host,
) -> None:
    (host.state_file.parent / f".{host.state_file.name}.x1y2").write_text("{")
    note = host.run_dir / "note"
    note.write_text("mine")
    steps = await host.clean()
    assert all(step.ok for step in steps.values()), steps
    assert host.left() == {host.run_dir.name, note.name}


async def test_tables_that_do_nothing_any_more_go_and_others_stay(host: Host) -> None:
    nat = host.iptables.table("nat")
    nat.chains["POSTROUTING"] = ["-s 10.0.0.0/8 -j MASQUERADE"]
    host.iptables.table("filter")
    steps = await host.clean()
    assert host.dropped == ["filter"]
    assert steps["tables"].result == "filter removed, for nothing was in them"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls to etcd are given up after three seconds; there is no setting for that."""

    def short(settings: Settings) -> EtcdConfig:
        return replace(etcd_config(settings), total_timeout=3.0)

    monkeypatch.setattr(cleanup, "etcd_config", short)


@pytest.mark.usefixtures("impatient")
async def test_without_etcd_the_rest_is_done_and_the_next_run_gives_the_lease_back(
    host: Host,
) -> None:
    await host.etcd.down()
    steps = await host.clean()
    assert [what for what, step in steps.items() if not step.ok] == ["lease"]
    assert host.etcd.url in steps["lease"].result
    assert host.left() == {"lib", "state.json", "run", "subnet.env"}
    assert load_state(host.state_file).remembered == SUBNET
    assert list(host.etcd.store.leases) == [LEASE_ID]
    await host.etcd.up()
    steps = await host.clean()
    assert all(step.ok for step in steps.values()), steps
    assert steps["lease"].result == "10.1.33.0/24 given back"
    assert (host.etcd.store.keys, host.etcd.store.leases) == ({}, {})
    assert host.left() == set()


@pytest.mark.parametrize("where", ["overlay", "docker0"])
async def test_what_fails_is_named_the_others_are_done_and_the_state_is_kept_for_the_next_run(
    host: Host, where: str
) -> None:
    host.overlay_fault = "no permission" if where == "overlay" else ""
    host.bridge_fault = "no permission" if where == "docker0" else ""
    steps = await host.clean()
    assert [what for what, step in steps.items() if not step.ok] == [where]
    assert "no permission" in steps[where].result
    assert host.etcd.store.leases == {}
    assert host.left() == {"lib", "state.json", "run", "subnet.env"}
    host.overlay_fault = host.bridge_fault = ""
    host.iptables.faults.clear()
    assert all(step.ok for step in (await host.clean()).values())
    assert host.left() == set()


async def test_without_a_working_iptables_both_halves_chains_are_named_and_the_rest_is_done(
    host: Host,
) -> None:
    host.iptables.fail("iptables-nft-save", "no permission", code=1, times=50)
    steps = await host.clean()
    assert [what for what, step in steps.items() if not step.ok] == [
        "services", "iptables", "tables",
    ]  # fmt: skip
    assert "no permission" in steps["services"].result
    assert host.etcd.store.leases == {}
    assert host.left() == {"lib", "state.json", "run", "subnet.env"}
    host.iptables.faults.clear()
    assert all(step.ok for step in (await host.clean()).values())
    assert host.left() == set()


def balance(host: Host) -> dict[str, list[str]]:
    """Chains of the services half beside those of a kube-proxy; returns what has to stay."""
    others = {
        "PREROUTING": ["-j KUBE-SERVICES"], "INPUT": [], "OUTPUT": ["-j KUBE-SERVICES"],
        "POSTROUTING": [], "KUBE-SERVICES": ["-j KUBE-SVC-ABC"], "KUBE-SVC-ABC": ["-j ACCEPT"],
        "KUBE-NODEPORTS": ["-j KUBE-SVC-ABC"],
    }  # fmt: skip
    table = host.iptables.table("nat")
    table.chains = {name: list(rules) for name, rules in others.items()} | {
        "KUBE-PORTALS-HOST": ["-j KUBE-PORTALS"],
        "KUBE-PORTALS": ["-d 10.0.0.0/28 -j KUBE-VIP-10.0.0.0-28"],
        "KUBE-VIP-10.0.0.0-28": ["-d 10.0.0.1/32 -p tcp -j DNAT --to-destination 10.1.1.1:80"],
        "KUBE-NODEPORT-TREE": ["-j KUBE-NP-tcp-0-65535"],
        "KUBE-NP-tcp-0-65535": [],
        "KUBE-NETD-CANARY": [],
    }
    table.chains["OUTPUT"].insert(0, "-j KUBE-PORTALS-HOST")
    host.iptables.table("filter").chains["KUBE-PORTALS-FILTER"] = ["-j REJECT"]
    host.iptables.table("filter").chains["INPUT"] = ["-j KUBE-PORTALS-FILTER"]
    return others


async def test_the_services_chains_go_and_those_of_a_kube_proxy_stay(host: Host) -> None:
    others = balance(host)
    steps = await host.clean()
    assert all(step.ok for step in steps.values()), steps
    assert steps["services"].result.endswith("removed")
    assert host.iptables.table("nat").chains == others
    assert host.iptables.table("filter").chains == {"INPUT": [], "FORWARD": [], "OUTPUT": []}


async def test_with_the_overlay_off_only_the_services_chains_go(host: Host) -> None:
    others = balance(host)
    flannel = {"FLANNEL-POSTRTG": ["-j RETURN"]}
    host.iptables.table("nat").chains |= flannel
    steps = await host.clean("--overlay=off")
    assert list(steps) == ["services", "tables", "run files", "sysctls"]
    assert host.iptables.table("nat").chains == others | flannel
    assert list(host.etcd.store.leases) == [LEASE_ID]
    assert {"state.json", "subnet.env", "docker_opts.env", "50-netd.conf"} <= host.left()


async def test_the_chains_of_an_old_kube_proxy_stay_though_they_have_our_names(host: Host) -> None:
    balance(host)
    table = host.iptables.table("nat")
    del table.chains["KUBE-NETD-CANARY"]
    before = table.copy().chains
    assert (await host.clean())["services"].result == "nothing of ours"
    assert host.iptables.table("nat").chains == before
    assert (await host.clean("--services=on"))["services"].result.endswith("removed")


async def test_with_services_off_no_chain_of_theirs_is_touched(host: Host) -> None:
    balance(host)
    before = host.iptables.table("nat").copy().chains
    steps = await host.clean("--services=off")
    assert "services" not in steps
    assert host.iptables.table("nat").chains == before
    assert host.left() == set()


async def test_with_both_halves_off_there_is_nothing_to_clean(host: Host) -> None:
    with pytest.raises(ConfigError, match="both off"):
        await host.clean("--overlay=off", "--services=off")


@pytest.mark.parametrize(
    ("one", "result"),
    [
        (record(str(SUBNET), 2), "10.1.33.0/24 is not ours in etcd"),
        (Record(record(str(SUBNET), 1).key, b"garbage", 1, 1, 1), "is not ours in etcd"),
        (record(str(SUBNET), 1, lease=0), "10.1.33.0/24 is a reservation and stays"),
    ],
)
async def test_a_record_that_is_not_ours_to_end_stays(
    tmp_path: Path, etcd: FakeEtcd, one: Record, result: str
) -> None:
    host = Host(tmp_path, etcd)
    host.write_files()
    host.write_record(one)
    before = dict(etcd.store.keys)
    steps = await host.clean()
    assert all(step.ok for step in steps.values()), steps
    assert result in steps["lease"].result
    assert etcd.store.keys == before
    assert host.left() == set()


async def test_a_lost_state_is_made_up_by_the_subnet_file_but_gives_no_other_s_lease_back(
    host: Host,
) -> None:
    """Nothing tells then that the record is this host's."""
    host.state_file.unlink()
    steps = await host.clean()
    assert steps["lease"] == Step("lease", "10.1.33.0/24 is not ours in etcd")
    assert list(host.etcd.store.leases) == [LEASE_ID]
    assert host.left() == set()


@pytest.mark.parametrize("content", [b"", b"garbage", json.dumps({"subnet": 7}).encode()])
async def test_a_damaged_state_does_not_stop_the_cleanup_and_goes_with_it(
    host: Host, content: bytes
) -> None:
    host.state_file.write_bytes(content)
    host.subnet_file.unlink()
    steps = await host.clean()
    assert steps["lease"].result == "none known"
    assert all(step.ok for step in steps.values()), steps
    assert host.left() == set()


async def test_folders_with_files_of_others_stay(host: Host) -> None:
    (host.subnet_file.parent / "notes").write_text("x")
    await host.clean()
    assert host.left() == {"run", "notes"}
