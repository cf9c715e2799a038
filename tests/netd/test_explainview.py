"""The explanation of a packet's path as a person reads it."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from netd.explainview import RULES_SHOWN, show

STEPS = [
    {"table": "nat", "chain": "PREROUTING", "rule": "-j KUBE-PORTALS-CONTAINER"},
    {"table": "nat", "chain": "KUBE-PORTALS-CONTAINER", "rule": "-j KUBE-PORTALS"},
    {"table": "nat", "chain": "KUBE-PORTALS", "rule": '-d 10.0.0.7/32 --comment "a/[b]:"'},
    {"table": "nat", "chain": "KUBE-PORTALS", "rule": "-d 10.0.0.7/32 -j DNAT"},
]  # fmt: skip
ANSWER: dict[str, Any] = {
    "frontend": "10.0.0.7:80/tcp", "kind": "cluster IP", "service": "default/web", "port": "http",
    "steps": STEPS,
    "endpoints": [
        {"address": "10.1.2.3:80", "probability": 0.5, "local": True, "node": "h1"},
        {"address": "10.1.3.3:80", "probability": 0.5, "local": False, "node": ""},
    ],
    "notes": ["a client keeps its endpoint for 60 s"],
    "wrong": [],
}  # fmt: skip


def shown(*answers: dict[str, Any], wrong: tuple[str, ...] = (), width: int = 120) -> str:
    """The view of a document with *answers*."""
    document = {
        "target": "web", "found": bool(answers), "answers": list(answers), "wrong": list(wrong),
    }  # fmt: skip
    output = io.StringIO()
    show(document, Console(file=output, width=width, highlight=False))
    return output.getvalue()


def test_each_chain_stands_below_the_one_that_enters_it_with_its_rules() -> None:
    lines = shown(ANSWER).splitlines()
    assert lines[0] == "10.0.0.7:80/tcp  cluster IP of default/web, port http"
    words = ("nat PREROUTING", "nat KUBE-PORTALS-CONTAINER", "nat KUBE-PORTALS", "-j DNAT")
    depths = []
    for word in words:
        (row,) = [row for row in lines if row.rstrip().endswith(word)]
        depths.append(row.index(word.split()[0]))
    assert depths[:3] == sorted(set(depths[:3]))


def test_endpoints_have_their_probability_and_node() -> None:
    rows = [" ".join(row.split()) for row in shown(ANSWER).splitlines()]
    assert "10.1.2.3:80 50.0% h1 (this one)" in rows
    assert "10.1.3.3:80 50.0% -" in rows
    assert "note: a client keeps its endpoint for 60 s" in rows


def test_without_a_window_a_rule_stays_on_one_line_as_iptables_save_prints_it() -> None:
    text = shown(ANSWER, width=20)
    assert '-d 10.0.0.7/32 --comment "a/[b]:"' in text
    assert max(map(len, text.splitlines())) < 100, "no line is filled up with spaces"


def test_in_a_narrow_window_no_part_of_a_rule_is_lost() -> None:
    output = io.StringIO()
    document = {"target": "web", "found": True, "answers": [ANSWER], "wrong": []}
    show(document, Console(file=output, width=40, force_terminal=True, no_color=True))
    text = re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue())
    assert all(len(row) <= 40 for row in text.splitlines())
    assert '-d10.0.0.7/32--comment"a/[b]:"' in re.sub(r"[\s│├└─]", "", text)


def test_what_is_wrong_is_said_for_the_answer_and_for_the_whole() -> None:
    text = shown(ANSWER | {"endpoints": [], "wrong": ["no [ready] endpoint"]}, wrong=("taken",))
    assert "no [ready] endpoint" in text
    assert "taken" in text
    assert "ENDPOINT" not in text


def test_an_answer_without_anything_still_says_something() -> None:
    assert shown() == "nothing is known of web\n"


def test_very_many_rules_and_endpoints_are_cut_and_counted() -> None:
    many = ANSWER | {
        "steps": [STEPS[-1]] * (RULES_SHOWN + 5),
        "endpoints": [ANSWER["endpoints"][0]] * (RULES_SHOWN + 7),
    }
    text = shown(many)
    assert text.count("-j DNAT") == RULES_SHOWN
    assert text.count("10.1.2.3:80") == RULES_SHOWN
    assert "and 5 more rules" in text
    assert "and 7 more" in text


@pytest.mark.parametrize("count", [1, 2])
def test_every_frontend_has_its_own_tree(count: int) -> None:
    other = ANSWER | {
        "frontend": "any address of this host:30061/tcp",
        "kind": "node port",
        "port": "",
    }
    text = shown(*[ANSWER, other][:count])
    assert text.count("PREROUTING") == count
    assert ("any address of this host:30061/tcp  node port of default/web\n" in text) == (
        count == 2
    )
