"""Commands and settings as man pages. Pure.

The sections and their order are those of man-pages(7), with COMMANDS after DESCRIPTION.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hostkit.config import Option
from lab.manual.model import Command, Flag, Operand
from lab.manual.notes import Notes, SettingsNotes, examples, help_text, paragraphs, terms
from lab.manual.roff import (
    Block,
    Item,
    Page,
    Paragraph,
    Section,
    Synopsis,
    bold,
    italic,
    plain,
)
from lab.manual.settings import notation, sort_of

_MANUALS = {5: "File Formats Manual", 8: "System Manager's Manual"}


@dataclass(frozen=True, slots=True)
class Edition:
    """What all pages carry: the *version* of the package, and a *date* in ISO 8601 or none."""

    version: str
    date: str

    def page(self, name: str, section: int, sections: Sequence[Section]) -> Page:
        """A page of this edition, without its empty sections."""
        return Page(
            name,
            section,
            self.date,
            f"barenode {self.version}",
            _MANUALS[section],
            tuple(one for one in sections if one.blocks),
        )


def daemon_page(command: Command, notes: Notes, edition: Edition) -> Page:
    """The page of a daemon."""
    [name] = command.words
    arguments = (f"[{italic('COMMAND')}]", f"[{italic('FLAG')}]...")
    return edition.page(
        name,
        8,
        [
            _name(name, command.summary),
            Section("SYNOPSIS", (Synopsis(bold(name), arguments),)),
            Section("DESCRIPTION", paragraphs(notes.description)),
            Section("COMMANDS", tuple(_command_item(one) for one in command.commands)),
            Section("OPTIONS", tuple(_flag_item(flag) for flag in command.flags)),
            *_closing(notes),
        ],
    )


def top_page(command: Command, notes: Notes, edition: Edition) -> Page:
    """The page of ``barenode`` itself: its commands, each of which has its own page."""
    [name] = command.words
    listed = tuple(
        Item(f"{bold(f'{name}-{one.words[-1]}')}(8)", plain(one.summary))
        for one in command.commands
    )
    arguments = (italic("COMMAND"), f"[{italic('ARGUMENT')}...]")
    others = tuple(_synopsis_flags(command.flags))
    return edition.page(
        name,
        8,
        [
            _name(name, command.summary),
            Section("SYNOPSIS", (Synopsis(bold(name), arguments), Synopsis(bold(name), others))),
            Section("DESCRIPTION", paragraphs(notes.description)),
            Section("COMMANDS", listed),
            Section("OPTIONS", tuple(_flag_item(flag) for flag in command.flags)),
            *_closing(notes),
        ],
    )


def command_page(command: Command, notes: Notes, edition: Edition) -> Page:
    """The page of one command of ``barenode``, with all below it."""
    name = "-".join(command.words)
    leaves = list(command.leaves())
    described = notes.description or (_sentence(command.summary),)
    if command.commands:
        body = [
            Section("COMMANDS", (Paragraph("Each command also takes `-h` and `--help`."),)),
            *(_leaf_section(leaf) for leaf in leaves),
        ]
    else:
        body = [Section("OPTIONS", _arguments(command, with_help=True))]
    return edition.page(
        name,
        8,
        [
            _name(name, command.summary),
            Section("SYNOPSIS", tuple(_synopsis(leaf) for leaf in leaves)),
            Section("DESCRIPTION", paragraphs(described)),
            *body,
            *_closing(notes),
        ],
    )


def settings_page(
    name: str, options: Sequence[Option], about: SettingsNotes, edition: Edition
) -> Page:
    """The page of a daemon's file of settings, ``NAME.toml``."""
    variables = [f"`{prefix}NAME`" for prefix in about.prefixes]
    listed = [
        one
        for one in options
        if not (one.hidden or one.flag_only) and one.name != about.file_option
    ]
    return edition.page(
        f"{name}.toml",
        5,
        [
            _name(f"{name}.toml", about.summary),
            Section("DESCRIPTION", paragraphs(about.notes.description)),
            Section("SETTINGS", tuple(_setting(one) for one in listed)),
            Section(
                "ENVIRONMENT",
                (
                    Paragraph(
                        f"Each setting is also read from {' and, stronger, '.join(variables)},"
                        " with its name in upper case and `_` for `-`. An empty variable counts"
                        " as unset."
                    ),
                ),
            ),
            *_closing(about.notes),
        ],
    )


def _name(name: str, summary: str) -> Section:
    return Section("NAME", (Paragraph(f"{name} - {plain(summary)}"),))


def _sentence(text: str) -> str:
    return f"{plain(text[:1].upper() + text[1:])}."


def _closing(notes: Notes) -> list[Section]:
    """What follows the options, in the order of man-pages(7)."""
    see = ", ".join(f"`{page[:-3]}`{page[-3:]}" for page in notes.see)
    return [
        Section("EXIT STATUS", terms(notes.status)),
        Section("SIGNALS", terms(notes.signals)),
        Section("ENVIRONMENT", terms(notes.environment)),
        Section("FILES", terms(notes.files)),
        Section("EXAMPLES", examples(notes.examples)),
        Section("SEE ALSO", (Paragraph(see),) if see else ()),
    ]


def _command_item(command: Command) -> Item:
    words = [bold(command.words[-1]), *(italic(one.value.name) for one in command.operands)]
    told = [plain(command.summary), *(f"{one.value.name}: {one.help}" for one in command.operands)]
    return Item(" ".join(words), ". ".join(told))


def _leaf_section(command: Command) -> Section:
    blocks = (Paragraph(_sentence(command.summary)), *_arguments(command, with_help=False))
    return Section(" ".join(command.words), blocks, sub=True)


def _arguments(command: Command, *, with_help: bool) -> tuple[Block, ...]:
    """Operands and flags, each group of flags after its heading."""
    told = [one for one in command.operands if one.help or one.value.words]
    blocks: list[Block] = [_operand_item(one) for one in told]
    for group in command.groups:
        flags = [flag for flag in group.flags if with_help or "--help" not in flag.names]
        if flags and group.heading:
            blocks.append(Paragraph(f"{plain(group.heading[:1].upper() + group.heading[1:])}:"))
        blocks += [_flag_item(flag) for flag in flags]
    return tuple(blocks)


def _operand_item(operand: Operand) -> Item:
    text = plain(operand.help)
    words = " or ".join(f"`{word}`" for word in operand.value.words)
    return Item(italic(operand.value.name), text or words)


def _flag_item(flag: Flag) -> Item:
    tag = ", ".join(bold(name) for name in flag.names)
    if flag.value:
        tag += f" {italic(flag.value.name)}"
    return Item(tag, help_text(flag.help, flag.default))


def _synopsis(command: Command) -> Synopsis:
    flags = [flag for flag in command.flags if "--help" not in flag.names]
    arguments = _synopsis_flags([flag for flag in flags if flag.required])
    arguments += _synopsis_flags([flag for flag in flags if not flag.required])
    arguments += [_synopsis_operand(operand) for operand in command.operands]
    if command.remainder:
        arguments.append(f"{bold('--')} {italic(command.remainder.name)}")
    return Synopsis(bold(" ".join(command.words)), tuple(arguments))


def _synopsis_flags(flags: Sequence[Flag]) -> list[str]:
    """Each flag, those that exclude each other as one; in brackets unless they are required."""
    rivals: dict[str, list[Flag]] = {}
    for flag in flags:
        rivals.setdefault(str(flag.rival or flag.names[-1]), []).append(flag)
    return [_synopsis_choice(tuple(together)) for together in rivals.values()]


def _synopsis_choice(flags: tuple[Flag, ...]) -> str:
    text = " | ".join(
        bold(flag.names[-1]) + (f" {italic(flag.value.name)}" if flag.value else "")
        for flag in flags
    )
    if not flags[0].required:
        return f"[{text}]"
    return f"{{{text}}}" if len(flags) > 1 else text


def _synopsis_operand(operand: Operand) -> str:
    text = italic(operand.value.name) + ("..." if operand.many else "")
    return f"[{text}]" if operand.optional else text


def _setting(option: Option) -> Item:
    default = notation(option.default)
    told = f"{plain(option.help)}. {sort_of(option)}"
    told += f"; default: `{default}`" if default else "; not set by default"
    return Item(bold(option.name), told)
