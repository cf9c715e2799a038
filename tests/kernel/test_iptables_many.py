"""Thousands of chains in the real kernel, in both variants: written, changed, damaged, repaired."""

import asyncio
import subprocess
import threading
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hostkit.command import SubprocessRunner
from netd.iptables.chain import Jump, Wish
from netd.iptables.errors import BadRule, LockBusy
from netd.iptables.owned import Committed, ServiceTables
from netd.iptables.table import Iptables, remove_all
from tests.support.netns import Fabric, Inside, Namespace, eventually

PREFIXES = ("KUBE-PORTALS", "KUBE-NODEPORT", "KUBE-VIP-", "KUBE-NP-")
MARK = "-j MARK --set-xmark 0x4000/0x4000"
NAT_JUMPS = (
    Jump("PREROUTING", '-m comment --comment "netd: a" -j KUBE-PORTALS', "KUBE-PORTALS", True),
    Jump(
        "PREROUTING",
        "-m addrtype --dst-type LOCAL -j KUBE-NODEPORT-TREE",
        "KUBE-NODEPORT-TREE",
        True,
    ),
    Jump("OUTPUT", '-m comment --comment "netd: a" -j KUBE-PORTALS', "KUBE-PORTALS", True),
)
FILTER = Wish(
    "filter",
    {"KUBE-PORTALS-FILTER": (
        "-p tcp -m mark --mark 0x2000/0x2000 -j REJECT --reject-with tcp-reset",
        "-m mark --mark 0x8000/0x8000 -j DROP",
    )},
    (Jump("FORWARD", "-j KUBE-PORTALS-FILTER", "KUBE-PORTALS-FILTER", first=True),),
    prefixes=PREFIXES,
)  # fmt: skip
LEAF = "KUBE-VIP-10.0.0.16-28"


def leaf(block: int, port: int = 80) -> tuple[str, ...]:
    """The rules of a few services in one block of sixteen addresses."""
    rules: list[str] = []
    for host in range(1, 4):
        vip = f"10.0.{block >> 4}.{(block & 15) * 16 + host}"
        match = f'-d {vip}/32 -p tcp -m comment --comment "default/s{block}-{host}:" -m tcp'
        chance = "-m statistic --mode random --probability 0.33333333349 "
        rules += [
            f"{match} --dport {port} {chance}-j DNAT --to-destination 10.1.1.1:{port}",
            f"{match} --dport {port} -j DNAT --to-destination 10.1.1.2:{port}",
        ]
    return tuple(rules)


def tree(blocks: int) -> dict[str, tuple[str, ...]]:
    """A root over *blocks* leaves."""
    names = [f"10.0.{block >> 4}.{(block & 15) * 16}" for block in range(blocks)]
    made = {f"KUBE-VIP-{name}-28": leaf(block) for block, name in enumerate(names)}
    made["KUBE-PORTALS"] = root(made)
    return made | {"KUBE-NODEPORT-TREE": (f"-p tcp -m tcp --dport 30061 {MARK}",)}


def root(chains: Iterable[str]) -> tuple[str, ...]:
    """The rules that enter each leaf among *chains*."""
    leaves = sorted(name for name in chains if name.startswith("KUBE-VIP-"))
    return tuple(f"-d {name[9:].replace('-', '/')} -j {name}" for name in leaves)


@dataclass
class Host:
    """A namespace with an owner of chains whose watch runs in it."""

    space: Namespace
    inside: Inside
    variant: str
    lock_file: Path
    chains: dict[str, tuple[str, ...]] = field(default_factory=lambda: tree(40))
    notices: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self.iptables = Iptables(
            SubprocessRunner(), self.variant, resync=600, lock_file=self.lock_file
        )
        self.tables = self.wait(self.iptables.open())
        self.subscription = self.iptables.watch.subscribe(self.notices.set)
        self.owner = ServiceTables(self.tables, self.subscription)
        self.inside.call(lambda: setattr(self, "task", asyncio.create_task(self._run())))

    async def _run(self) -> None:
        await self.iptables.watch.run()

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.inside.wait(work, deadline=60)

    def wishes(self) -> list[Wish]:
        return [Wish("nat", self.chains, NAT_JUMPS, prefixes=PREFIXES), FILTER]

    def commit(self, *touched: str) -> Committed:
        """A partial commit of *touched*, or a full one."""
        names = {"nat": touched} if touched else None
        done: Committed = self.wait(self.owner.commit(self.wishes(), names))
        return done

    def change(self, name: str, rules: tuple[str, ...] | None) -> Committed:
        """Another leaf, or none, written by a partial commit."""
        if rules is None:
            del self.chains[name]
        else:
            self.chains[name] = rules
        self.chains["KUBE-PORTALS"] = root(self.chains)
        return self.commit(name, "KUBE-PORTALS")

    def run(self, command: str) -> str:
        """An iptables command of this variant by somebody else, such as ``-t nat -F``."""
        return self.space.run(["sh", "-c", f"iptables-{self.variant}{command}"])

    def saved(self, table: str = "nat") -> list[str]:
        """The chains and rules there are, without counters and dates."""
        lines = self.run(f"-save -t {table}").splitlines()
        return [line.partition(" [")[0] for line in lines if not line.startswith("#")]

    def noticed(self) -> None:
        """Wait until the watch asks for a look."""
        eventually(self.notices.is_set, "a foreign change noticed")
        self.notices.clear()

    def is_quiet(self) -> bool:
        """Whether, asked now, the watch has seen nothing foreign."""
        self.inside.call(self.iptables.watch.poll)
        return not self.subscription.is_pending

    def close(self) -> None:
        self.inside.close()
        self.iptables.close()


@pytest.fixture(params=["nft", "legacy"])
def host(
    fabric: Fabric, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    """With 40 leaves written; its lock file is its own (iptables(8), XTABLES_LOCKFILE)."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    space = fabric.namespace("host")
    made = Host(space, Inside(space), request.param, tmp_path / "xtables.lock")
    made.start()
    made.commit()
    yield made
    made.close()


def test_what_is_written_is_read_back_letter_for_letter(host: Host) -> None:
    """A full commit after it finds nothing to do, and our own commits are not foreign."""
    again = host.commit()
    assert (again.full, again.what, again.foreign) == (True, (), ())
    assert host.is_quiet()
    rules = [line for line in host.saved() if line.startswith("-A KUBE")]
    assert len(rules) == sum(map(len, host.chains.values()))


def test_a_changed_a_new_and_a_vanished_chain_are_sent_alone(host: Host) -> None:
    """Partial commits, each one restore; then a full one finds nothing to do."""
    assert host.change(LEAF, leaf(1, 81)).changed == (LEAF,)
    new = "KUBE-VIP-10.0.9.0-28"
    assert set(host.change(new, leaf(144)).changed) == {"KUBE-PORTALS", new}
    assert set(host.change(LEAF, None).changed) == {"KUBE-PORTALS", LEAF}
    assert host.is_quiet()
    assert not [line for line in host.saved() if LEAF in line]
    assert host.commit().what == ()
    assert host.owner.partial_restore_failures == 0


def test_two_tables_in_one_restore_are_both_known_as_ours(host: Host) -> None:
    host.chains[LEAF] = leaf(1, 82)
    changed = Wish("filter", {"KUBE-PORTALS-FILTER": ()}, FILTER.jumps, prefixes=PREFIXES)
    touched = {"nat": [LEAF], "filter": ["KUBE-PORTALS-FILTER"]}
    done = host.wait(host.owner.commit([host.wishes()[0], changed], touched))
    assert not done.full
    assert host.is_quiet()


DAMAGE = [
    " -t nat -F",
    " -t nat -F && iptables-{v} -t nat -X",
    " -t nat -F KUBE-PORTALS",
    f" -t nat -D {LEAF} 1",
    " -t nat -I PREROUTING -p udp -j ACCEPT",
    " -t nat -D OUTPUT 1",
    " -t filter -F",
]


def test_all_damage_is_noticed_and_put_right(host: Host) -> None:
    """Flushes, deletions, altered chains and displaced jumps, one after the other."""
    foreign = "-A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE"
    host.run(f" -t nat {foreign}")
    host.noticed()
    assert host.commit().foreign == ()
    ours = [line for line in host.saved() if "KUBE" in line]
    for damage in DAMAGE:
        host.run(damage.format(v=host.variant))
        host.noticed()
        done = host.commit()
        assert done.foreign, damage
        assert sorted(line for line in host.saved() if "KUBE" in line) == sorted(ours), damage
        assert host.commit().what == (), damage
        assert host.is_quiet(), damage
    order = [line for line in host.saved() if line.startswith("-A PREROUTING")]
    assert order == [
        "-A PREROUTING " + NAT_JUMPS[0].rule,
        "-A PREROUTING " + NAT_JUMPS[1].rule,
        "-A PREROUTING -p udp -j ACCEPT",
    ]


def test_a_restored_old_dump_is_noticed_and_put_right(host: Host, tmp_path: Path) -> None:
    """iptables-restore of a dump takes the newer rules away and brings a chain back."""
    dump = tmp_path / "dump"
    host.run(f"-save > {dump}")
    host.change(LEAF, None)
    host.change("KUBE-VIP-10.0.9.0-28", leaf(144))
    ours = host.saved()
    host.run(f"-restore < {dump}")
    host.noticed()
    done = host.commit()
    assert f"nat: chain {LEAF} removed" in done.foreign
    assert "nat: chain KUBE-VIP-10.0.9.0-28 missing" in done.foreign
    assert sorted(host.saved()) == sorted(ours)


def test_a_rule_replaced_by_one_of_equal_size_is_noticed(host: Host) -> None:
    """A legacy table's figures stay the same; the lock file tells."""
    host.run(f" -t nat -R KUBE-NODEPORT-TREE 1 -p tcp -m tcp --dport 30062 {MARK}")
    host.noticed()
    assert host.commit().foreign == ("nat: chain KUBE-NODEPORT-TREE altered",)


def test_a_foreign_commit_between_ours_is_noticed(host: Host) -> None:
    """While we write one chain again and again, another program empties another one of ours."""

    async def both() -> list[Committed]:
        async def others() -> None:
            for _ in range(3):
                argv = [
                    f"iptables-{host.variant}",
                    "-w",
                    "5",
                    "-t",
                    "nat",
                    "-F",
                    "KUBE-NODEPORT-TREE",
                ]
                await SubprocessRunner().run(argv)

        task = asyncio.create_task(others())
        done: list[Committed] = []
        while not task.done() or host.subscription.is_pending:
            host.chains[LEAF] = leaf(1, 1000 + len(done))
            done.append(await host.owner.commit(host.wishes(), {"nat": [LEAF]}))
        await task
        host.iptables.watch.poll()
        done.append(await host.owner.commit(host.wishes(), {}))
        return done

    for _ in range(5):
        commits = host.wait(both())
        assert "nat: chain KUBE-NODEPORT-TREE altered" in [
            what for one in commits for what in one.foreign
        ]
        assert host.commit().what == ()
        assert host.is_quiet()


def test_chains_of_an_earlier_life_go_and_foreign_ones_stay(host: Host) -> None:
    host.run(" -t nat -N KUBE-SVC-FOREIGN")
    host.run(" -t nat -A KUBE-SVC-FOREIGN -j RETURN")
    host.run(" -t nat -A POSTROUTING -j KUBE-SVC-FOREIGN")
    host.chains = tree(3)
    later = Host(host.space, host.inside, host.variant, host.lock_file, host.chains)
    later.start()
    done = later.commit()
    assert "nat: chain KUBE-VIP-10.0.2.112-28 removed" in done.what
    assert not any("removed" in what for what in done.foreign)
    saved = later.saved()
    assert {line for line in saved if line.startswith(":KUBE")} == (
        {f":{name} -" for name in host.chains} | {":KUBE-SVC-FOREIGN -"}
    )
    assert saved.count("-A POSTROUTING -j KUBE-SVC-FOREIGN") == 1
    later.iptables.close()


def test_a_rule_that_iptables_cannot_read_is_named(host: Host) -> None:
    before = host.saved()
    good = leaf(1)
    for bad in ("-p tcp -m tcp --dport 70000 -j RETURN", "-d 300.1.1.1/32 -j RETURN"):
        host.chains[LEAF] = (*good, bad)
        with pytest.raises(BadRule) as caught:
            host.commit(LEAF)
        assert caught.value.rules == (("nat", LEAF, bad),)
        assert host.saved() == before
    host.chains[LEAF] = good
    assert host.commit(LEAF).foreign == ()


def test_all_rules_that_the_kernel_refuses_are_named_and_nothing_changes(host: Host) -> None:
    """nft names their lines, legacy only that of COMMIT, so they are found by trial.

    REJECT is for the filter table only; iptables reads the rule, the kernel refuses it.
    """
    before = host.saved()
    bad = "-j REJECT --reject-with icmp-port-unreachable"
    other = "KUBE-VIP-10.0.0.32-28"
    host.chains[LEAF] = (*leaf(1), bad)
    host.chains[other] = (f"-p udp {bad}", *leaf(2), bad)
    with pytest.raises(BadRule) as caught:
        host.commit(LEAF, other)
    assert sorted(caught.value.rules) == [
        ("nat", LEAF, bad), ("nat", other, bad), ("nat", other, f"-p udp {bad}"),
    ]  # fmt: skip
    assert host.saved() == before
    host.chains[LEAF], host.chains[other] = leaf(1, 81), leaf(2, 81)
    assert set(host.commit(LEAF, other).changed) == {LEAF, other}
    assert host.commit().what == ()


def test_a_partial_commit_into_chains_that_are_gone_becomes_a_full_one(host: Host) -> None:
    """Nobody has noticed the flush yet when a new chain is to be entered."""
    host.run(" -t nat -F")
    host.run(" -t nat -X")
    host.chains["KUBE-NODEPORT-TREE"] = (f"-p tcp -m tcp --dport 30061 -j {LEAF}",)
    done = host.commit("KUBE-NODEPORT-TREE")
    assert done.full
    assert f"nat: chain {LEAF} missing" in done.foreign
    assert host.commit().what == ()


def test_a_busy_lock_is_told_as_such_and_does_not_concern_nft(host: Host) -> None:
    """Somebody holds the lock for as long as we are ready to wait."""
    probe = ["flock", "-n", str(host.lock_file), "true"]
    with subprocess.Popen(["flock", str(host.lock_file), "cat"], stdin=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        eventually(lambda: subprocess.run(probe, check=False).returncode, "the lock held")
        host.chains[LEAF] = leaf(1, 83)
        if host.variant == "legacy":
            with pytest.raises(LockBusy):
                host.commit(LEAF)
        else:
            assert host.commit(LEAF).changed == (LEAF,)
        holder.stdin.close()
    host.chains[LEAF] = leaf(1, 84)
    assert host.commit(LEAF).changed == (LEAF,)
    assert host.commit().what == ()


def test_everything_of_ours_can_be_removed(host: Host) -> None:
    host.run(" -t nat -A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE")
    removed = host.wait(remove_all(host.tables, ("nat", "filter"), PREFIXES))
    assert len([what for what in removed if what.startswith("chain")]) == len(host.chains) + 1
    for table in ("nat", "filter"):
        assert not [line for line in host.saved(table) if "KUBE" in line]
    assert "-A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE" in host.saved()
    assert host.wait(remove_all(host.tables, ("nat", "filter"), PREFIXES)) == ()
