"""The restore text makes a table right, is idempotent, and leaves foreign rules alone."""

from ipaddress import IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd.iptables.chain import Chain, Jump, Wish
from netd.iptables.diff import Observed, parse_save, plan
from netd.iptables.flannel import forward, masquerade
from tests.fakes.iptables import FakeIptables, Table

NETWORK = IPv4Network("10.1.0.0/16")
WISH = forward(NETWORK)
JUMP = WISH.jumps[0].rule
RULES = list(WISH.chains[0].rules)
GONE = forward(None)
RIGHT = {"FORWARD": ["-i x -j ACCEPT", JUMP], "FLANNEL-FWD": RULES}
REJECT = "-j REJECT --reject-with icmp-host-prohibited"


def filter_table(chains: dict[str, list[str]]) -> Table:
    """A filter table with *chains*."""
    table = Table.empty("filter")
    table.chains |= {name: list(rules) for name, rules in chains.items()}
    return table


def see(table: Table, name: str = "filter") -> Observed:
    """*table* as iptables-save tells it."""
    return parse_save(table.text(name))


def put_right(table: Table, wish: Wish) -> tuple[Table, tuple[str, ...]]:
    """*table* after the planned change, and what the change said of itself."""
    change = plan(wish, see(table, wish.table))
    if change is None:
        return table, ()
    fake = FakeIptables(tables={("nft", wish.table): table.copy()})
    assert change.text.count("COMMIT\n") == 1
    assert change.text.startswith(f"*{wish.table}\n")
    fake._restore("nft", change.text)
    return fake.table(wish.table), change.what


def test_save_output_is_read_with_chains_that_have_no_rules() -> None:
    text = (
        "# Generated\n*filter\n:FORWARD DROP [12:34]\n:EMPTY - [0:0]\n"
        '-A FORWARD -m comment --comment "a b" -j EMPTY\n-A FORWARD -j REJECT\nCOMMIT\n'
    )
    assert parse_save(text).chains == {
        "FORWARD": ('-m comment --comment "a b" -j EMPTY', "-j REJECT"), "EMPTY": (),
    }  # fmt: skip


def test_a_table_that_is_right_needs_no_change() -> None:
    assert plan(WISH, see(filter_table(RIGHT))) is None
    assert plan(GONE, see(filter_table({}))) is None


@pytest.mark.parametrize(
    ("chains", "what"),
    [
        ({}, {"chain FLANNEL-FWD missing", "jump FORWARD to FLANNEL-FWD missing"}),
        (RIGHT | {"FLANNEL-FWD": RULES[:1]}, {"chain FLANNEL-FWD altered"}),
        (RIGHT | {"FLANNEL-FWD": RULES[::-1]}, {"chain FLANNEL-FWD altered"}),
        (RIGHT | {"FLANNEL-FWD": RULES * 2}, {"chain FLANNEL-FWD altered"}),
        (RIGHT | {"FLANNEL-FWD": []}, {"chain FLANNEL-FWD altered"}),
        (RIGHT | {"FORWARD": []}, {"jump FORWARD to FLANNEL-FWD missing"}),
        (RIGHT | {"FORWARD": [JUMP, JUMP]}, {"jump FORWARD to FLANNEL-FWD doubled"}),
        (RIGHT | {"FORWARD": ["-j FLANNEL-FWD"]}, {"jump FORWARD to FLANNEL-FWD misplaced"}),
        (RIGHT | {"FORWARD": [REJECT, JUMP]}, {"jump FORWARD to FLANNEL-FWD misplaced"}),
    ],
)
def test_what_is_wrong_is_named_and_put_right(chains: dict[str, list[str]], what: set[str]) -> None:
    table, said = put_right(filter_table(chains), WISH)
    assert set(said) == what
    assert table.chains["FLANNEL-FWD"] == RULES
    assert table.chains["FORWARD"].count(JUMP) == 1
    assert plan(WISH, see(table)) is None


def test_only_what_is_wrong_is_mentioned() -> None:
    change = plan(WISH, see(filter_table(RIGHT | {"FORWARD": []})))
    assert change is not None
    assert change.text == f"*filter\n-A FORWARD {JUMP}\nCOMMIT\n"


@pytest.mark.parametrize(
    "wall",
    [
        REJECT,
        "-j DROP",
        "-j REJECT",
        '-m comment --comment "deny all" -j REJECT --reject-with icmp-port-unreachable',
        "-m comment --comment last -j DROP",
        r'-m comment --comment "say \"no\"" -j DROP',
    ],
)
def test_the_jump_comes_before_a_rule_that_ends_the_chain(wall: str) -> None:
    others = ["-i a -j ACCEPT", "-i b -j DROP"]
    for before in ([*others, wall], [*others, wall, JUMP], [JUMP, *others, wall, JUMP]):
        table, _ = put_right(filter_table(RIGHT | {"FORWARD": before}), WISH)
        assert table.chains["FORWARD"] == [*others, JUMP, wall]


@pytest.mark.parametrize(
    "rule",
    [
        "-s 10.9.0.0/16 -j DROP",
        '-s 10.9.0.0/16 -m comment --comment "x" -j DROP',
        '-m comment --comment "-j DROP" -j ACCEPT',
    ],
)
def test_a_rule_with_a_condition_or_that_accepts_is_no_end_of_the_chain(rule: str) -> None:
    assert plan(WISH, see(filter_table(RIGHT | {"FORWARD": [rule, JUMP]}))) is None


@pytest.mark.parametrize(
    "rule",
    [
        '-j LOG --log-prefix "went to -j FLANNEL-FWD "',
        '-m comment --comment "before -j FLANNEL-FWD" -j ACCEPT',
        "-j FLANNEL-FWD-OLD",
        "-m comment --comment FLANNEL-FWD -j RETURN",
    ],
)
def test_a_rule_that_only_speaks_of_our_chain_is_not_taken_for_a_jump(rule: str) -> None:
    chains = RIGHT | {"FORWARD": [rule, JUMP], "FLANNEL-FWD-OLD": []}
    assert plan(WISH, see(filter_table(chains))) is None
    change = plan(GONE, see(filter_table(chains)))
    assert change is not None
    assert f"-D FORWARD {rule}" not in change.text.splitlines()
    assert f"-D FORWARD {JUMP}" in change.text.splitlines()


def test_without_such_a_rule_the_jump_comes_last() -> None:
    table, _ = put_right(filter_table({"FORWARD": ["-i a -j ACCEPT"]}), WISH)
    assert table.chains["FORWARD"] == ["-i a -j ACCEPT", JUMP]


def test_chains_wished_away_go_with_every_jump_to_them() -> None:
    chains = RIGHT | {"FORWARD": [JUMP, "-i a -j ACCEPT", JUMP], "OTHER": ["-g FLANNEL-FWD"]}
    table, said = put_right(filter_table(chains), GONE)
    assert "FLANNEL-FWD" not in table.chains
    assert table.chains["FORWARD"] == ["-i a -j ACCEPT"]
    assert table.chains["OTHER"] == []
    assert said == ("chain FLANNEL-FWD removed",)


def test_several_chains_are_made_before_the_rules_that_jump_to_them() -> None:
    wish = Wish(
        "nat",
        chains=(Chain("A", ("-j B",)), Chain("B", ("-j RETURN",))),
        jumps=(Jump("OUTPUT", "-j A", "A"), Jump("PREROUTING", "-j A", "A")),
    )
    table, _ = put_right(Table.empty("nat"), wish)
    assert plan(wish, see(table, "nat")) is None


OURS = ("FLANNEL-FWD", "FLANNEL-POSTRTG")
WALLS = ["-j DROP", REJECT]
FOREIGN_RULES = [
    "-i docker0 -j ACCEPT",
    "-s 10.1.0.0/16 -j DROP",
    "-j DOCKER-USER",
    "-j RETURN",
    "-m comment --comment flannel -j ACCEPT",
    *WALLS,
]


def tables(wish: Wish) -> st.SearchStrategy[dict[str, list[str]]]:
    """Chains as flannel, Docker, administrators and accidents may leave them."""
    jump, chain = wish.jumps[0], wish.chains[0]
    foreign = st.sampled_from(FOREIGN_RULES)
    jumps = st.sampled_from([jump.rule, f"-j {chain.name}", f"-s 10.0.0.0/8 -g {chain.name}"])
    inside = st.lists(st.one_of(st.sampled_from(chain.rules), foreign), max_size=8)
    return st.builds(
        lambda parent, own, other: {
            "DOCKER-USER": other, chain.name: own, jump.parent: parent,
        },
        st.lists(st.one_of(foreign, jumps), max_size=10),
        st.one_of(st.just(list(chain.rules)), inside),
        st.lists(st.sampled_from(["-j RETURN", "-i x -j DROP"]), max_size=3),
    )  # fmt: skip


CASES = [WISH, masquerade(NETWORK, IPv4Network("10.1.33.0/24"))]


def foreign_part(table: Table) -> dict[str, list[str]]:
    """Everything that is not ours, in its order."""
    return {
        name: [rule for rule in rules if not any(chain in rule for chain in OURS)]
        for name, rules in table.chains.items()
        if name not in OURS
    }


@settings(deadline=None)
@given(st.data(), st.sampled_from(CASES))
def test_any_table_is_put_right_in_one_commit_that_leaves_foreign_rules_alone(
    data: st.DataObject, wish: Wish
) -> None:
    before = Table.empty(wish.table)
    before.chains |= data.draw(tables(wish))
    after, _ = put_right(before, wish)
    assert plan(wish, see(after, wish.table)) is None
    jump = wish.jumps[0]
    assert after.chains[wish.chains[0].name] == list(wish.chains[0].rules)
    parent = after.chains[jump.parent]
    assert parent.count(jump.rule) == 1
    walls = [number for number, rule in enumerate(parent) if rule in WALLS]
    assert not walls or parent.index(jump.rule) < walls[0]
    assert foreign_part(after) == foreign_part(before)
    assert after.policies == before.policies


@settings(deadline=None)
@given(st.data(), st.sampled_from(CASES))
def test_any_table_is_rid_of_our_chains_and_of_nothing_else(
    data: st.DataObject, wish: Wish
) -> None:
    gone = Wish(wish.table, absent=(wish.chains[0].name,))
    before = Table.empty(wish.table)
    before.chains |= data.draw(tables(wish))
    after, _ = put_right(before, gone)
    assert plan(gone, see(after, wish.table)) is None
    assert wish.chains[0].name not in after.chains
    assert foreign_part(after) == foreign_part(before)
