"""The tables through iptables' programs: the right variant, one commit, honest failures."""

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from netd.errors import FirewallError
from netd.iptables.diff import Change
from netd.iptables.errors import BadRule, HiddenTable, LockBusy
from netd.iptables.flannel import forward, masquerade
from netd.iptables.table import Iptables, Tables, detect_variant, remove_all
from tests.fakes.iptables import FakeGeneration, FakeIptables

NETWORK, SUBNET = IPv4Network("10.1.0.0/16"), IPv4Network("10.1.33.0/24")
WISHES = [forward(NETWORK), masquerade(NETWORK, SUBNET)]
BUSY = "Another app is currently holding the xtables lock; waiting for it to exit...\n"
AWAY = [forward(None), masquerade(None, None)]


@pytest.fixture
def fake() -> FakeIptables:
    return FakeIptables()


@pytest.fixture
def tables(fake: FakeIptables) -> Tables:
    return Tables(fake, "nft")


def snapshot(fake: FakeIptables) -> dict[str, str]:
    """Both tables as text."""
    return {name: fake.table(name).text(name) for name in ("filter", "nat")}


async def test_both_tables_are_written_once_and_then_left_alone(
    fake: FakeIptables, tables: Tables
) -> None:
    changed = await tables.ensure(WISHES)
    assert set(changed) == {
        "chain FLANNEL-FWD missing", "jump FORWARD to FLANNEL-FWD missing",
        "chain FLANNEL-POSTRTG missing", "jump POSTROUTING to FLANNEL-POSTRTG missing",
    }  # fmt: skip
    assert len(fake.restored) == 2
    assert all(text.count("COMMIT") == 1 for text in fake.restored)
    assert await tables.ensure(WISHES) == ()
    assert len(fake.restored) == 2


async def test_only_the_table_that_was_flushed_is_written_again(
    fake: FakeIptables, tables: Tables
) -> None:
    await tables.ensure(WISHES)
    before = snapshot(fake)
    nat = fake.table("nat")
    nat.chains = {name: [] for name in nat.policies}
    assert set(await tables.ensure(WISHES)) == {
        "chain FLANNEL-POSTRTG missing", "jump POSTROUTING to FLANNEL-POSTRTG missing",
    }  # fmt: skip
    assert snapshot(fake) == before
    assert len(fake.restored) == 3


async def test_chains_that_flanneld_left_are_taken_over_without_a_change(
    fake: FakeIptables, tables: Tables
) -> None:
    for wish in WISHES:
        table = fake.table(wish.table)
        table.chains |= {name: list(rules) for name, rules in wish.chains.items()}
        table.chains[wish.jumps[0].parent].append(wish.jumps[0].rule)
    assert await tables.ensure(WISHES) == ()
    assert fake.restored == []


async def test_a_changed_subnet_rewrites_its_chain_and_keeps_the_jump(
    fake: FakeIptables, tables: Tables
) -> None:
    await tables.ensure(WISHES)
    moved = masquerade(NETWORK, IPv4Network("10.1.44.0/24"))
    assert await tables.ensure([forward(NETWORK), moved]) == ("chain FLANNEL-POSTRTG altered",)
    assert fake.table("nat").chains["FLANNEL-POSTRTG"] == list(moved.chains["FLANNEL-POSTRTG"])


async def test_what_was_written_can_be_taken_away_and_foreign_rules_stay(
    fake: FakeIptables, tables: Tables
) -> None:
    fake.table("filter").chains["FORWARD"].append("-i docker0 -j ACCEPT")
    before = snapshot(fake)
    await tables.ensure(WISHES)
    await tables.ensure(AWAY)
    assert snapshot(fake) == before
    assert await tables.ensure(AWAY) == ()


async def test_only_the_variant_in_use_is_touched(fake: FakeIptables) -> None:
    await Tables(fake, "legacy").ensure(WISHES)
    assert "FLANNEL-FWD" in fake.table("filter", "legacy").chains
    assert "FLANNEL-FWD" not in fake.table("filter", "nft").chains


async def test_a_write_waits_for_the_xtables_lock_and_flushes_nothing(
    fake: FakeIptables, tables: Tables
) -> None:
    await tables.ensure(WISHES)
    writes = {argv for argv in fake.calls if argv[0].endswith("-restore")}
    assert writes == {("iptables-nft-restore", "--noflush", "-w", "5")}


async def test_a_failed_write_is_counted_told_and_made_good_by_the_next_look(
    fake: FakeIptables, tables: Tables
) -> None:
    fake.fail("iptables-nft-restore", "Another app is currently holding the xtables lock")
    with pytest.raises(FirewallError, match="xtables lock") as caught:
        await tables.ensure(WISHES)
    assert "fuser /run/xtables.lock" in str(caught.value)
    assert tables.restore_failures == 1
    await tables.ensure(WISHES)
    assert await tables.ensure(WISHES) == ()
    assert tables.restore_failures == 1


async def test_a_failure_in_the_second_table_keeps_the_first_and_is_looked_at_anew(
    fake: FakeIptables, tables: Tables
) -> None:
    def disturb(argv: tuple[str, ...]) -> None:
        if argv[0].endswith("-restore") and fake.restored and "nat" not in fake.faults:
            fake.faults["nat"] = []
            fake.fail("iptables-nft-restore", "no memory")

    fake.before = disturb
    with pytest.raises(FirewallError, match="no memory"):
        await tables.ensure(WISHES)
    assert "FLANNEL-FWD" in fake.table("filter").chains
    assert "FLANNEL-POSTRTG" not in fake.table("nat").chains
    changed = await tables.ensure(WISHES)
    assert all("POSTR" in what for what in changed)


async def test_a_rule_that_vanishes_between_look_and_write_fails_whole_and_is_retried(
    fake: FakeIptables, tables: Tables
) -> None:
    jump = WISHES[0].jumps[0].rule
    fake.table("filter").chains["FORWARD"] += [jump, jump]

    def flush(argv: tuple[str, ...]) -> None:
        if argv[0].endswith("-restore"):
            fake.table("filter").chains["FORWARD"].clear()

    fake.before = flush
    with pytest.raises(FirewallError):
        await tables.ensure(WISHES)
    assert "FLANNEL-FWD" not in fake.table("filter").chains
    fake.before = lambda _argv: None
    await tables.ensure(WISHES)
    assert fake.table("filter").chains["FORWARD"] == [jump]


async def test_a_failed_read_is_told_and_writes_nothing(fake: FakeIptables, tables: Tables) -> None:
    fake.fail("iptables-nft-save", "Fatal: can't open", code=1)
    with pytest.raises(FirewallError, match=r"reading tables filter.*can't open"):
        await tables.ensure(WISHES)
    assert fake.restored == []
    assert tables.restore_failures == 0


async def test_a_change_that_is_not_wellformed_changes_nothing(
    fake: FakeIptables, tables: Tables
) -> None:
    before = snapshot(fake)
    with pytest.raises(FirewallError):
        text = "*filter\n-A FORWARD -j NOWHERE\nCOMMIT\n"
        await tables.restore([Change("filter", text, ("x",), {})])
    assert snapshot(fake) == before


@pytest.mark.parametrize("default", ["nft", "legacy"])
@pytest.mark.parametrize("chain", ["DOCKER", "FLANNEL-FWD", "KUBE-FORWARD", "CNI-FORWARD"])
@pytest.mark.parametrize("user", ["nft", "legacy"])
async def test_the_variant_that_carries_known_programs_chains_is_taken(
    default: str, chain: str, user: str
) -> None:
    fake = FakeIptables(variant=default)
    for variant in ("nft", "legacy"):
        fake.table("filter", variant).chains["FORWARD"] += ["-i a -j ACCEPT"] * 5
    fake.table("filter", user).chains[chain] = ["-j RETURN"]
    assert await detect_variant(fake) == user


@pytest.mark.parametrize("default", ["nft", "legacy"])
async def test_without_known_chains_the_variant_with_more_rules_is_taken(default: str) -> None:
    fake = FakeIptables(variant=default)
    fake.table("filter", "legacy").chains["FORWARD"] += ["-i a -j ACCEPT"] * 2
    fake.table("filter", "nft").chains["FORWARD"] += ["-i a -j ACCEPT"]
    assert await detect_variant(fake) == "legacy"


@pytest.mark.parametrize("default", ["nft", "legacy"])
async def test_without_any_rules_the_plain_command_s_variant_is_taken(default: str) -> None:
    assert await detect_variant(FakeIptables(variant=default)) == default


async def test_a_variant_whose_programs_are_missing_is_not_taken() -> None:
    fake = FakeIptables(variant="nft", missing={"iptables-legacy-save"})
    fake.table("filter", "legacy").chains["DOCKER"] = []
    assert await detect_variant(fake) == "nft"
    both = FakeIptables(variant="legacy", missing={"iptables-legacy-save", "iptables-nft-save"})
    assert await detect_variant(both) == "legacy"


async def test_without_iptables_the_error_says_what_to_install_or_switch_off() -> None:
    fake = FakeIptables(missing={"iptables", "iptables-nft-save", "iptables-legacy-save"})
    with pytest.raises(FirewallError) as caught:
        await detect_variant(fake)
    for word in ("install the iptables package", "--ip-masq", "--iptables-forward-rules"):
        assert word in str(caught.value)


async def test_several_tables_of_nft_are_read_by_one_command(
    fake: FakeIptables, tables: Tables
) -> None:
    fake.table("filter").chains["FORWARD"].append("-j DROP")
    read = await tables.save(["nat", "filter"])
    assert fake.calls == [("iptables-nft-save",)]
    assert read["filter"].chains["FORWARD"] == ("-j DROP",)
    assert read["nat"].chains == {}
    await Tables(fake, "legacy").save(["nat", "filter"])
    assert fake.calls[1:] == [("iptables-legacy-save", "-t", "nat"),
                              ("iptables-legacy-save", "-t", "filter")]  # fmt: skip


async def test_a_busy_lock_is_told_from_a_bad_rule(fake: FakeIptables, tables: Tables) -> None:
    change = Change("nat", "*nat\n-A OUTPUT -d 300.1.1.1 -j ACCEPT\nCOMMIT\n", ("x",), {})
    fake.fail("iptables-nft-restore", "Another app is currently holding the xtables lock.")
    with pytest.raises(LockBusy, match=r"/run/xtables\.lock"):
        await tables.restore([change])
    fake.refused = {"300.1.1.1"}
    with pytest.raises(BadRule, match=r"300\.1\.1\.1.*OUTPUT in nat.*bad value") as caught:
        await tables.restore([change])
    assert caught.value.rules == (("nat", "OUTPUT", "-d 300.1.1.1 -j ACCEPT"),)
    assert tables.restore_failures == 2


async def test_errors_are_one_short_line_without_the_input(
    fake: FakeIptables, tables: Tables
) -> None:
    rules = "".join(f"-A OUTPUT -d 10.0.0.{n} -j ACCEPT\n" for n in range(200))
    change = Change("nat", f"*nat\n{rules}COMMIT\n", ("x",), {})
    many = "".join(
        f"line {n}: RULE_APPEND failed (Invalid argument): rule in chain OUTPUT\n"
        for n in range(2, 202)
    )
    for code, message in ((3, "no memory\n" * 100), (None, "no end after 120 s, stopped"),
                          (4, BUSY), (4, many)):  # fmt: skip
        fake.fail("iptables-nft-restore", message, code=code)
        with pytest.raises(FirewallError) as caught:
            await tables.restore([change])
        text = str(caught.value)
        assert "\n" not in text
        assert len(text) < 450
        assert "10.0.0.77" not in text
    assert isinstance(caught.value, BadRule)
    assert len(caught.value.rules) == 200
    assert "rule '-d 10.0.0.0 -j ACCEPT' of chain OUTPUT in nat and 199 more:" in text


async def test_the_error_of_a_write_names_program_status_and_message(
    fake: FakeIptables, tables: Tables
) -> None:
    change = Change("nat", "*nat\nCOMMIT\n", ("x",), {})
    fake.fail("iptables-nft-restore", "no\nmemory\n", code=3)
    with pytest.raises(FirewallError) as caught:
        await tables.restore([change])
    assert str(caught.value) == (
        "writing the tables: iptables-nft-restore: exit status 3: no memory"
    )


async def test_a_table_that_cannot_be_shown_is_not_taken_for_an_empty_one(
    fake: FakeIptables, tables: Tables
) -> None:
    """The other table is put right all the same."""
    await tables.ensure(WISHES)
    fake.table("filter").chains["FLANNEL-FWD"] = []
    fake.hidden = {"nat"}
    before = fake.table("nat").text("nat")
    for names in (["nat"], ["filter", "nat"]):
        with pytest.raises(HiddenTable, match="nft list table ip nat"):
            await tables.save(names)
    assert (await tables.save(["filter"])).keys() == {"filter"}
    for _ in range(3):
        with pytest.raises(HiddenTable) as caught:
            await tables.ensure(WISHES)
        assert caught.value.table == "nat"
    assert fake.table("nat").text("nat") == before
    assert fake.table("filter").chains["FLANNEL-FWD"] == list(WISHES[0].chains["FLANNEL-FWD"])
    with pytest.raises(HiddenTable):
        await remove_all(tables, ("nat", "filter"), ("FLANNEL-",))
    assert fake.table("nat").text("nat") == before
    fake.hidden = set()
    assert await tables.ensure(WISHES) != ()
    assert await tables.ensure(WISHES) == ()


async def test_all_chains_with_our_prefixes_can_be_removed(
    fake: FakeIptables, tables: Tables
) -> None:
    before = snapshot(fake)
    for name in ("nat", "filter"):
        fake.table(name).chains |= {"KUBE-VIP-A": ["-j KUBE-NP-B"], "KUBE-NP-B": []}
        fake.table(name).chains["OUTPUT"].append("-j KUBE-VIP-A")
    removed = await remove_all(tables, ("nat", "filter"), ("KUBE-VIP-", "KUBE-NP-"))
    assert removed == ("chain KUBE-NP-B removed", "chain KUBE-VIP-A removed") * 2
    assert snapshot(fake) == before
    assert await remove_all(tables, ("nat", "filter"), ("KUBE-VIP-", "KUBE-NP-")) == ()


@pytest.mark.parametrize("variant", ["nft", "legacy"])
async def test_all_owners_share_one_variant_and_one_watch(tmp_path: Path, variant: str) -> None:
    fake = FakeIptables(variant=variant)
    shared = Iptables(
        fake, "auto", resync=5,
        source=lambda chosen: FakeGeneration(fake, chosen), lock_file=tmp_path / "lock",
    )  # fmt: skip
    first = await shared.open()
    looked = len(fake.calls)
    assert await shared.open() is first is shared.tables
    assert first.variant == variant
    assert len(fake.calls) == looked
    assert (shared.watch.timer is None) == (variant == "nft")
    await first.ensure(WISHES)
    assert shared.watch.poll() == 0
    shared.close()


async def test_without_a_lock_file_the_legacy_tables_are_looked_at_by_the_timer(
    fake: FakeIptables, tmp_path: Path
) -> None:
    shared = Iptables(
        fake, "legacy", resync=5,
        source=lambda chosen: FakeGeneration(fake, chosen), lock_file=tmp_path / "no" / "lock",
    )  # fmt: skip
    await shared.open()
    assert shared.watch.timer == 5
    shared.close()
