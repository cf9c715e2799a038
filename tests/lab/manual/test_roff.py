"""Text comes out of troff as it went in, whatever characters are in it."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from lab.manual.roff import (
    Code,
    Item,
    Page,
    Paragraph,
    Section,
    Synopsis,
    bold,
    escape,
    plain,
    prose,
    render,
)

_GLYPHS = {
    r"\(rs": "\\",
    r"\-": "-",
    r"\(aq": "'",
    r"\(ga": "`",
    r"\(dq": '"',
    r"\(ha": "^",
    r"\(ti": "~",
}
_ESCAPE = re.compile(r"\\\[u([0-9A-F]+)\]|\\f[BIR]|\\[&:]|\\\(..|\\-")
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]))


def read(troff: str) -> str:
    """What troff prints for *troff*, by groff_char(7) and groff(7)."""

    def glyph(found: re.Match[str]) -> str:
        if found[1]:
            return chr(int(found[1], 16))
        return _GLYPHS.get(found[0], "")

    return _ESCAPE.sub(glyph, troff)


def page(*blocks: Paragraph | Item | Code | Synopsis) -> list[str]:
    """The lines after the heading of a page's only section."""
    text = render(Page("x", 8, "2026-01-02", "barenode 1", "Manual", (Section("A", blocks),)))
    return text.splitlines()[4:]


@given(TEXTS)
@example(".SH no heading")
@example("'ignored")
@example("a\\fBb ``c` `d`")
def test_any_text_is_printed_as_it_is_and_no_line_of_it_is_a_request(text: str) -> None:
    lines = prose(plain(text))
    assert "".join(" ".join(map(read, lines)).split()) == "".join(text.split())
    assert all(line.isascii() and line[0] not in ".'" for line in lines)


@given(TEXTS)
def test_escaped_text_has_no_bare_backslash_quote_or_dash(text: str) -> None:
    done = escape(text)
    assert read(done) == text
    assert not set("'\"`^~") & set(done)
    assert not re.search(r"(?<!\\)-", done)


def test_words_between_backquotes_are_bold_and_the_line_is_filled() -> None:
    assert prose("use `netd run` now") == [r"use \fBnetd run\fR now"]
    lines = prose("word " * 60)
    assert len(lines) > 3
    assert max(map(len, lines)) <= 78


def test_a_long_list_may_be_broken_behind_its_commas_and_nothing_of_it_is_lost() -> None:
    text = ",".join(f"nodefs.available<{n}%" for n in range(9))
    [line] = prose(text)
    assert r",\:nodefs" in line
    assert read(line) == text


def test_lines_of_an_example_keep_their_dots_and_backslashes() -> None:
    lines = page(Code((".profile", r"a \ ", "'x'")))
    assert [read(line) for line in lines[2:5]] == [".profile", r"a \ ", "'x'"]
    assert not any(line.startswith(("'", ".p")) for line in lines)


def test_a_term_without_a_text_does_not_swallow_the_next_one() -> None:
    assert page(Item(bold("a"), ""), Item(bold("b"), "c")) == [
        ".TP",
        r"\fBa\fR",
        r"\&",
        ".TP",
        r"\fBb\fR",
        "c",
    ]


def test_an_argument_of_a_synopsis_stays_in_one_piece() -> None:
    [_, line, *_] = page(Synopsis(bold("netd"), ("[--a B]", "C")))
    assert line == r"[--a\ B] C"


def test_the_title_has_name_section_date_and_release() -> None:
    first = render(Page("a-b", 8, "2026-01-02", "barenode 1", "M", ())).splitlines()[0]
    assert read(first) == '.TH "A-B" "8" "2026-01-02" "barenode 1" "M"'
