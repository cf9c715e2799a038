"""The parts of a man page that no parser or table can give. Pure."""

from dataclasses import dataclass

from lab.manual.roff import Block, Code, Item, Paragraph, bold, plain


@dataclass(frozen=True, slots=True)
class Example:
    """What an operator types, and what it does, in prose with mark-up."""

    lines: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Notes:
    """Prose of one page, with mark-up; empty sections are left out.

    *status*, *environment*, *files* and *signals* are pairs of a term and what it means. *see*
    names other pages, such as ``netd.toml(5)``.
    """

    description: tuple[str, ...] = ()
    status: tuple[tuple[str, str], ...] = ()
    signals: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    examples: tuple[Example, ...] = ()
    see: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SettingsNotes:
    """A daemon's file of settings: its page's *summary*, how variables begin, weak to strong,
    the option that names the file, and prose."""

    summary: str
    prefixes: tuple[str, ...]
    file_option: str
    notes: Notes


def paragraphs(texts: tuple[str, ...]) -> tuple[Block, ...]:
    """Prose as blocks."""
    return tuple(Paragraph(text) for text in texts)


def terms(pairs: tuple[tuple[str, str], ...]) -> tuple[Block, ...]:
    """Terms in bold with what they mean."""
    return tuple(Item(bold(term), text) for term, text in pairs)


def examples(given: tuple[Example, ...]) -> tuple[Block, ...]:
    """Each example's text, then its lines."""
    return tuple(block for one in given for block in (Paragraph(one.text), Code(one.lines)))


def help_text(text: str, default: str) -> str:
    """A flag's help with its default, as prose."""
    return f"{plain(text)} (default: `{default}`)" if default else plain(text)
