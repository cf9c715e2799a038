"""docs/conformance.md lists the cases that tests are marked with, and nothing else."""

import re
from pathlib import Path

from tests.support.conformance import every_case, table

TEXT = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()
CASES = every_case()


def test_each_topic_s_table_is_what_its_tests_are_marked_with() -> None:
    for topic, cases in CASES.items():
        assert cases, f"{topic} has no case"
        assert f"## {topic}\n\n{table(cases)}\n" in TEXT, (
            f"{topic}: the page needs what python -m tests.support.conformance prints"
        )


def test_nothing_is_listed_twice_or_without_a_test() -> None:
    listed = re.findall(r"^\| `(.+?)` \| (?:pass|fail) \|", TEXT, re.MULTILINE)
    assert sorted(listed) == sorted(one.codename for cases in CASES.values() for one in cases)


def test_the_figures_in_the_introduction_are_those_of_the_tables() -> None:
    every = [one for cases in CASES.values() for one in cases]
    failing = [one for one in every if one.fails]
    assert f"{len(every)} cases, of which {len(every) - len(failing)} pass" in TEXT
    assert f"{len(failing)} fail" in TEXT


def test_a_name_breaks_no_table() -> None:
    assert not [one for cases in CASES.values() for one in cases if set("|`\n") & set(one.codename)]
