"""A rule made with nft in the table of iptables hides that table from iptables-nft-save."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from netd.iptables.errors import HiddenTable
from netd.iptables.table import remove_all
from tests.kernel.test_iptables_many import LEAF, PREFIXES, Host, leaf
from tests.support.netns import Fabric, Inside

FOREIGN = "ct state new counter"


class NftHost(Host):
    """A host on which somebody uses nft."""

    def nft(self, command: str) -> str:
        """What ``nft`` prints."""
        return self.space.run(["sh", "-c", f"nft {command}"])

    def hide(self) -> None:
        """A rule of nft's own in nat."""
        self.nft(f"add rule ip nat PREROUTING {FOREIGN}")
        self.noticed()

    def show(self) -> None:
        """Take it out again."""
        listed = self.nft("-a list chain ip nat PREROUTING")
        match = re.search(r"ct state new.*# handle (\d+)", listed)
        assert match is not None
        self.nft(f"delete rule ip nat PREROUTING handle {match[1]}")
        self.noticed()

    def count(self, words: str) -> int:
        """How often *words* stand in nat, as nft shows it."""
        return self.nft("list table ip nat").count(words)

    def hidden(self, *touched: str) -> HiddenTable:
        """A commit that has to tell of the hidden table."""
        with pytest.raises(HiddenTable) as caught:
            self.commit(*touched)
        return caught.value


@pytest.fixture
def host(fabric: Fabric, tmp_path: Path) -> Iterator[NftHost]:
    """With 40 leaves written."""
    space = fabric.namespace("host")
    made = NftHost(space, Inside(space), "nft", tmp_path / "xtables.lock")
    made.start()
    made.commit()
    yield made
    made.close()


def test_updates_go_on_nothing_is_doubled_and_all_is_compared_again_later(host: NftHost) -> None:
    ours = host.saved()
    jumps, dnats = host.count("jump KUBE-PORTALS"), host.count("dnat to 10.1.1.1:80")
    host.hide()
    for port in (81, 82):
        host.chains[LEAF] = leaf(1, port)
        error = host.hidden(LEAF)
        assert (error.table, error.is_written) == ("nat", True)
        assert host.count(f"dnat to 10.1.1.1:{port}") == 3
    assert host.hidden().is_written
    assert host.count("jump KUBE-PORTALS") == jumps
    assert host.count("dnat to 10.1.1.1:80") == dnats - 3
    host.show()
    host.run(" -t nat -F KUBE-NODEPORT-TREE")
    host.noticed()
    host.chains[LEAF] = leaf(1)
    done = host.commit(LEAF)
    assert (done.full, done.foreign) == (True, ("nat: chain KUBE-NODEPORT-TREE altered",))
    assert sorted(host.saved()) == sorted(ours)
    assert host.commit().what == ()


def test_a_cleanup_fails_honestly_and_removes_nothing_twice(host: NftHost) -> None:
    """What can be compared is removed; the rest stays, and goes once it can be shown."""
    host.hide()
    jumps = host.count("jump KUBE-PORTALS")
    for _ in range(2):
        with pytest.raises(HiddenTable, match="nft list table ip nat"):
            host.wait(remove_all(host.tables, ("filter", "nat"), PREFIXES))
        assert host.count("jump KUBE-PORTALS") == jumps
        assert not [line for line in host.saved("filter") if "KUBE" in line]
    host.show()
    assert host.wait(remove_all(host.tables, ("filter", "nat"), PREFIXES))
    assert host.count("KUBE") == 0


def test_a_new_owner_writes_nothing_to_a_hidden_table(host: NftHost) -> None:
    """netd starts again while the rule is there: it cannot know what an earlier one left."""
    host.hide()
    before = host.nft("list table ip nat")
    later = NftHost(host.space, host.inside, "nft", host.lock_file, host.chains)
    later.start()
    assert not later.hidden().is_written
    assert host.nft("list table ip nat") == before
    host.show()
    assert later.commit().what == ()
    later.iptables.close()
