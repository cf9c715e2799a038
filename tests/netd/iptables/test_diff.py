"""The restore text makes a table right, is idempotent, and leaves foreign rules alone."""

from ipaddress import IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd.iptables.chain import Jump, Wish
from netd.iptables.diff import Observed, parse_saves, plan, plan_partial, target
from netd.iptables.flannel import forward, masquerade
from tests.fakes.iptables import FakeIptables, Table

NETWORK = IPv4Network("10.1.0.0/16")
WISH = forward(NETWORK)
JUMP = WISH.jumps[0].rule
RULES = list(WISH.chains["FLANNEL-FWD"])
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
    return parse_saves(table.text(name))[name]


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
    assert parse_saves(text)["filter"].chains == {
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
        chains={"A": ("-j B",), "B": ("-j RETURN",)},
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
    jump = wish.jumps[0]
    chain, own_rules = next(iter(wish.chains.items()))
    foreign = st.sampled_from(FOREIGN_RULES)
    jumps = st.sampled_from([jump.rule, f"-j {chain}", f"-s 10.0.0.0/8 -g {chain}"])
    inside = st.lists(st.one_of(st.sampled_from(own_rules), foreign), max_size=8)
    return st.builds(
        lambda parent, own, other: {
            "DOCKER-USER": other, chain: own, jump.parent: parent,
        },
        st.lists(st.one_of(foreign, jumps), max_size=10),
        st.one_of(st.just(list(own_rules)), inside),
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
    assert {name: tuple(after.chains[name]) for name in wish.chains} == wish.chains
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
    gone = Wish(wish.table, absent=tuple(wish.chains))
    before = Table.empty(wish.table)
    before.chains |= data.draw(tables(wish))
    after, _ = put_right(before, gone)
    assert plan(gone, see(after, wish.table)) is None
    assert not wish.chains.keys() & after.chains.keys()
    assert foreign_part(after) == foreign_part(before)


PREFIXES = ("KUBE-PORTALS", "KUBE-NODEPORT", "KUBE-VIP-", "KUBE-NP-")
SERVICES = Wish(
    "nat",
    {"KUBE-PORTALS": ("-d 10.0.0.0/28 -j KUBE-VIP-A",), "KUBE-VIP-A": (), "KUBE-NODEPORT-TREE": ()},
    (
        Jump("PREROUTING", '-m comment --comment "netd: a" -j KUBE-PORTALS', "KUBE-PORTALS", True),
        Jump(
            "PREROUTING",
            "-m addrtype --dst-type LOCAL -j KUBE-NODEPORT-TREE",
            "KUBE-NODEPORT-TREE",
            True,
        ),
        Jump("OUTPUT", "-j KUBE-PORTALS", "KUBE-PORTALS", True),
    ),
    prefixes=PREFIXES,
)
FIRST, SECOND = SERVICES.jumps[0].rule, SERVICES.jumps[1].rule


def nat_table(chains: dict[str, list[str]]) -> Table:
    """A nat table with the chains of SERVICES, and *chains*."""
    table = Table.empty("nat")
    table.chains |= {name: list(rules) for name, rules in SERVICES.chains.items()}
    table.chains |= {"DOCKER": [], "OUTPUT": ["-j KUBE-PORTALS"]} | chains
    return table


@pytest.mark.parametrize(
    "before",
    [
        [],
        ["-j DOCKER", FIRST, SECOND],
        [FIRST, "-j DOCKER", SECOND],
        [SECOND, FIRST, "-j DOCKER"],
        [FIRST, SECOND, "-j DOCKER", FIRST],
        ["-j DOCKER", "-j KUBE-PORTALS"],
        [FIRST, SECOND, '-m comment --comment "-j X -j KUBE-NODEPORT-TREE" -j KUBE-NODEPORT-TREE'],
    ],
)
def test_first_jumps_stand_before_every_foreign_rule_in_the_wished_order(before: list[str]) -> None:
    table, said = put_right(nat_table({"PREROUTING": before}), SERVICES)
    foreign = [rule for rule in before if rule == "-j DOCKER"]
    assert table.chains["PREROUTING"] == [FIRST, SECOND, *foreign]
    assert said
    assert plan(SERVICES, see(table, "nat")) is None


def test_another_jump_to_a_chain_of_ours_may_stand_before_a_first_jump() -> None:
    ours = Jump("PREROUTING", FIRST, "KUBE-PORTALS")
    wish = Wish("nat", SERVICES.chains, (ours, *SERVICES.jumps[1:]), prefixes=PREFIXES)
    assert plan(wish, see(nat_table({"PREROUTING": [FIRST, SECOND, "-j DOCKER"]}), "nat")) is None


def test_only_the_jump_that_is_wrong_is_named() -> None:
    change = plan(SERVICES, see(nat_table({"PREROUTING": [FIRST, "-j DOCKER", SECOND]}), "nat"))
    assert change is not None
    assert change.what == ("jump PREROUTING to KUBE-NODEPORT-TREE misplaced",)
    assert not change.filled


def test_unwished_chains_with_our_prefixes_go_with_all_that_enters_them() -> None:
    stale = {
        "KUBE-VIP-OLD": ["-j KUBE-NP-OLD"],
        "KUBE-NP-OLD": ["-j KUBE-VIP-A"],
        "KUBE-PORTALS": ["-j KUBE-VIP-OLD"],
        "KUBE-SVC-OTHER": ["-j KUBE-NP-OLD", "-j RETURN"],
        "POSTROUTING": ["-g KUBE-VIP-OLD", "-j KUBE-PORTALS", "-j DOCKER"],
        "PREROUTING": [FIRST, SECOND],
    }
    table, said = put_right(nat_table(stale), SERVICES)
    assert {name for name in table.chains if name.startswith(PREFIXES)} == set(SERVICES.chains)
    assert table.chains["KUBE-SVC-OTHER"] == ["-j RETURN"]
    assert table.chains["POSTROUTING"] == ["-j DOCKER"]
    assert "chain KUBE-VIP-OLD removed" in said
    assert "jump POSTROUTING to KUBE-PORTALS removed" in said


def test_a_chain_that_is_emptied_anyway_is_not_told_to_delete_rules() -> None:
    """A rule of a chain that the same commit empties cannot be deleted once more."""
    before = {"FLANNEL-FWD": ["-j OLD", *RULES], "OLD": [], "FORWARD": [JUMP]}
    wish = Wish("filter", WISH.chains, WISH.jumps, absent=("OLD",))
    table, _ = put_right(filter_table(before), wish)
    assert "OLD" not in table.chains
    assert table.chains["FLANNEL-FWD"] == RULES


def test_a_partial_plan_names_only_touched_chains_that_differ() -> None:
    written = dict(SERVICES.chains) | {"KUBE-VIP-GONE": ("-j RETURN",), "KUBE-VIP-A": ("-j X",)}
    change = plan_partial(SERVICES, ["KUBE-PORTALS", "KUBE-VIP-A", "KUBE-VIP-GONE"], written)
    assert change is not None
    assert change.text == (
        "*nat\n:KUBE-VIP-A - [0:0]\n:KUBE-VIP-GONE - [0:0]\n-X KUBE-VIP-GONE\nCOMMIT\n"
    )
    assert (change.filled, change.removed) == ({"KUBE-VIP-A": ()}, ("KUBE-VIP-GONE",))
    assert plan_partial(SERVICES, ["KUBE-PORTALS"], written) is None
    assert plan_partial(SERVICES, [], {}) is None


@pytest.mark.parametrize(
    ("rule", "to"),
    [
        ("-d 10.0.0.1/32 -j KUBE-VIP-A", "KUBE-VIP-A"),
        ("-g X", "X"),
        ("-j LOG --log-prefix \"to -j X \"", "LOG"),
        ('-m comment --comment "a \\" -j X" -j Y', "Y"),
        ("-m comment --comment -j -j Y", "Y"),
        ("-p tcp", None),
        ("", None),
    ],
)  # fmt: skip
def test_the_target_of_a_rule_is_told_from_words_in_its_texts(rule: str, to: str | None) -> None:
    assert target(rule) == to


def test_thirty_thousand_rules_are_read_into_as_many() -> None:
    rules = [
        f"-d 10.0.{n >> 8}.{n & 255}/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.1.1.1"
        for n in range(30_000)
    ]
    lines = [f"-A KUBE-VIP-{n // 10} {rule}" for n, rule in enumerate(rules)]
    read = parse_saves("\n".join(["*nat", *lines, "COMMIT", "*filter", "COMMIT"]))
    assert read.keys() == {"nat", "filter"}
    assert [rule for chain in read["nat"].chains.values() for rule in chain] == rules
    assert len(read["nat"].chains) == 3000
