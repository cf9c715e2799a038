r"""Text as troff input with the macros of man(7). Pure.

The output is ASCII: other characters become ``\[uXXXX]``. Every dash is written ``\-``, so that
flags can be searched for and copied; quotes, accents and backslashes are named by their glyphs,
because troff gives the bare characters typographic shapes (groff_char(7)).

In prose a word between backquotes is bold. Texts of help have no mark-up and go through
``plain``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH = 78
_BREAKABLE = 75
_GLYPHS = {
    "\\": r"\(rs",
    "-": r"\-",
    "'": r"\(aq",
    "`": r"\(ga",
    '"': r"\(dq",
    "^": r"\(ha",
    "~": r"\(ti",
}


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Prose with mark-up."""

    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """A tagged paragraph. *tag* is troff already, *text* prose with mark-up."""

    tag: str
    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """Lines as they are, such as a command to type."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Synopsis:
    """A command and its arguments, each of which stays in one piece; both troff already."""

    command: str
    arguments: tuple[str, ...]


Block = Paragraph | Item | Code | Synopsis


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks under a heading; *sub* makes it a subsection of the one before."""

    heading: str
    blocks: tuple[Block, ...]
    sub: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A man page. *date* is ISO 8601 or empty, *source* the package with its version."""

    name: str
    section: int
    date: str
    source: str
    manual: str
    sections: tuple[Section, ...]

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.name}.{self.section}"


def escape(text: str) -> str:
    """*text* so that troff prints exactly its characters, wherever it stands in a line."""
    return "".join(
        _GLYPHS.get(char) or (char if char.isascii() else rf"\[u{ord(char):04X}]") for char in text
    )


def plain(text: str) -> str:
    """*text* as prose that has no mark-up: its backquotes print."""
    return text.replace("`", "``")


def bold(text: str) -> str:
    """*text* in bold."""
    return rf"\fB{escape(text)}\fR"


def italic(text: str) -> str:
    """*text* in italics."""
    return rf"\fI{escape(text)}\fR"


def prose(text: str) -> list[str]:
    """Lines of troff for prose with mark-up, filled to 78 columns or so."""
    lines, line = [], ""
    for word in _marked(text).split():
        broken = _breakable(word)
        if line and len(line) + 1 + len(broken) > _WIDTH:
            lines.append(line)
            line = broken
        else:
            line = f"{line} {broken}".strip()
    return [_protect(one) for one in [*lines, line] if one]


def render(page: Page) -> str:
    """The page's file."""
    title = " ".join(
        f'"{escape(word)}"'
        for word in (page.name.upper(), str(page.section), page.date, page.source, page.manual)
    )
    # Ragged right and no hyphens: flags and paths are long words, and are searched for.
    lines = [f".TH {title}", ".ad l", ".nh"]
    for section in page.sections:
        lines.append(f'.{"SS" if section.sub else "SH"} "{escape(section.heading)}"')
        for number, block in enumerate(section.blocks):
            lines += _block(block, first=number == 0)
    return "\n".join(lines) + "\n"


def _block(block: Block, *, first: bool) -> list[str]:
    match block:
        case Paragraph(text):
            return [*([] if first else [".PP"]), *prose(text)]
        case Item(tag, text):
            # A tagged paragraph must have a body, or the next tag becomes it.
            return [".TP", _protect(tag), *(prose(text) or [r"\&"])]
        case Code(lines):
            code = [_protect(escape(line)) for line in lines]
            return [*([] if first else [".PP"]), ".RS 4", ".nf", *code, ".fi", ".RE"]
        case Synopsis(command, arguments):
            kept = [argument.replace(" ", r"\ ") for argument in arguments]
            # .YS of groff switches hyphenation on again.
            return [f'.SY "{command}"', *(_protect(one) for one in _filled(kept)), ".YS", ".nh"]


def _filled(words: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= _WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _marked(text: str) -> str:
    """Escaped *text*, its words between backquotes bold; two backquotes are one that prints."""
    parts = re.split(r"(``|`[^`]+`)", text)
    return "".join(
        escape("`") if part == "``" else bold(part[1:-1]) if part[:1] == "`" else escape(part)
        for part in parts
        if part
    )


def _breakable(word: str) -> str:
    """A long word with places where troff may break it: it warns of a line that it cannot fill."""
    if len(word) < _BREAKABLE:
        return word
    return re.sub(r"([,/=])(?=[^,/=\\])", r"\1\\:", word)


def _protect(line: str) -> str:
    r"""A line that begins with a dot or an apostrophe is a request; ``\&`` before it hides it."""
    return rf"\&{line}" if line[:1] in {".", "'"} else line
