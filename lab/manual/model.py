"""A command line as man pages and shell completion see it, wherever it was declared.

Pure. ``tables`` reads it out of the commands' own parsers and tables; ``pages`` and
``completion`` render it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a shell can offer for a value."""

    NOTHING = "-"
    WORDS = "="
    FILE = "file"
    FOLDER = "folder"
    INTERFACE = "interface"
    LAB = "lab"
    NODE = "node"
    COMMAND = "command"


@dataclass(frozen=True, slots=True)
class Value:
    """What follows a flag, or stands by itself; *words* are all it may be, if *kind* says so."""

    name: str
    kind: Kind = Kind.NOTHING
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag. *names* are with their dashes; a switch has no *value*.

    *default* is as the operator would write it, empty for none or where *help* tells it. Of the
    flags of a command with the same *rival* number, unless it is 0, only one may be given.
    """

    names: tuple[str, ...]
    help: str
    value: Value | None = None
    default: str = ""
    required: bool = False
    rival: int = 0


@dataclass(frozen=True, slots=True)
class Operand:
    """A word without a flag; *many* of them, or none where it is *optional*."""

    value: Value
    help: str = ""
    optional: bool = False
    many: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Flags under a heading of their own; the first group's is empty."""

    heading: str
    flags: tuple[Flag, ...]


@dataclass(frozen=True, slots=True)
class Command:
    """A command. *words* are what is typed to name it, *remainder* what may follow ``--``.

    Where *one_dash* is set, its flags may be written with one dash as with two, anywhere, and a
    switch takes ``=true`` or ``=false``.
    """

    words: tuple[str, ...]
    summary: str
    groups: tuple[Group, ...] = ()
    operands: tuple[Operand, ...] = ()
    commands: tuple["Command", ...] = ()
    remainder: Value | None = None
    one_dash: bool = False

    @property
    def flags(self) -> tuple[Flag, ...]:
        """The flags of all groups."""
        return tuple(flag for group in self.groups for flag in group.flags)

    def leaves(self) -> Iterator["Command"]:
        """The commands below that do something themselves, in order; this one if none is."""
        if not self.commands:
            yield self
        for command in self.commands:
            yield from command.leaves()

    def walk(self) -> Iterator["Command"]:
        """This command and all below it."""
        yield self
        for command in self.commands:
            yield from command.walk()
