"""What the programs of iptables say about lines and tables is traced to rules and tables."""

import pytest

from netd.iptables.diff import bad_rules, hidden_tables

INPUT = "*nat\n:A - [0:0]\n-A A -j ONE\n-A A -j TWO\n-X B\nCOMMIT\n*filter\n-A C -j THREE\nCOMMIT\n"


@pytest.mark.parametrize(
    ("message", "found"),
    [
        # What iptables 1.8.9 says, of both variants.
        (
            "iptables-restore v1.8.9 (legacy): invalid port/service `70000' specified\n"
            "Error occurred at line: 4\nTry `iptables-restore -h' for more information.\n",
            [("nat", "A", "-j TWO")],
        ),
        (
            "iptables-nft-restore v1.8.9 (nf_tables): \n"
            "line 3: RULE_APPEND failed (Invalid argument): rule in chain A\n",
            [("nat", "A", "-j ONE")],
        ),
        (
            "iptables-nft-restore v1.8.9 (nf_tables): \n"
            "line 3: RULE_APPEND failed (Invalid argument): rule in chain A\n"
            "line 5: CHAIN_DEL failed (Device or resource busy): chain B\n"
            "line 8: RULE_APPEND failed (Invalid argument): rule in chain C\n",
            [("nat", "A", "-j ONE"), ("filter", "C", "-j THREE")],
        ),
        (
            "line 2: CHAIN_USER_ADD failed (File name too long): chain A\n"
            "line 3: RULE_APPEND failed (No such file or directory): rule in chain A\n",
            [],
        ),
        ("Error occurred at line: 8", [("filter", "C", "-j THREE")]),
        ("iptables-nft-restore: line 3 failed: No chain", [("nat", "A", "-j ONE")]),
        ("iptables-restore: line 6 failed\n", []),
        ("line 5: CHAIN_DEL failed (Device or resource busy): chain B", []),
        ("Error occurred at line: 99", []),
        ("Error occurred at line: 0", []),
        ("Another app is currently holding the xtables lock", []),
        ("host/network `line 3' not found", []),
    ],
)
def test_the_lines_that_iptables_names_are_traced_to_their_rules(
    message: str, found: list[tuple[str, str, str]]
) -> None:
    assert bad_rules(INPUT, message) == tuple(found)


def test_tables_that_iptables_cannot_show_are_told_from_comments_about_them() -> None:
    text = (
        "# Generated\n*filter\n:FORWARD DROP [1:2]\n"
        '-A FORWARD -m comment --comment "# Table `raw\' is incompatible" -j DROP\nCOMMIT\n'
        "# Table `nat' is incompatible, use 'nft' tool.\n"
        "# Table `mangle' contains incompatible base-chains, use 'nft' tool to list them.\n"
    )
    assert hidden_tables(text) == {"nat"}
