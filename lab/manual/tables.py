"""Reads commands out of argparse parsers and of the daemons' tables of options. Pure."""

import argparse
import inspect
from collections.abc import Mapping, Sequence

from hostkit.config import Option, Parser, show
from lab.manual.model import Command, Flag, Group, Kind, Operand, Value
from lab.recipes import RECIPES

_KINDS = {
    "FILE": Kind.FILE,
    "PATH": Kind.FILE,
    "SOCKET": Kind.FILE,
    "IMAGE.tar": Kind.FILE,
    "DIR": Kind.FOLDER,
    "FOLDER": Kind.FOLDER,
    "IFACE": Kind.INTERFACE,
    "LAB": Kind.LAB,
}
"""What the shell offers for a value, by the name under which help shows it."""
_FILES_TOO = {"--hyperkube-image", "--etcd-image"}
"""Flags that take the name of an image, or a file with one."""
_REMAINDERS: dict[tuple[str, ...], Value] = {
    ("barenode", "lab", "exec"): Value("CMD...", Kind.COMMAND),
    ("barenode", "lab", "kubectl"): Value("ARGS..."),
}
"""What follows ``--``: ``lab.cli.parse`` cuts it off before argparse sees it."""
_WORDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("barenode", "image", "build"): (*sorted(RECIPES), "hyperkube")
}
"""Operands whose words the parser does not check itself."""


def choices(parse: Parser) -> tuple[str, ...]:
    """The words that *parse* takes, if ``hostkit.config.choice`` made it; else none."""
    if not inspect.isfunction(parse):
        return ()
    allowed = inspect.getclosurevars(parse).nonlocals.get("allowed", ())
    return tuple(allowed) if isinstance(allowed, tuple) else ()


def daemon(
    name: str,
    summary: str,
    commands: Mapping[str, str],
    options: Sequence[Option],
    operands: Mapping[str, Operand],
) -> Command:
    """The command line of a daemon: its *commands* with their help, *operands* by command."""
    flags = tuple(flag_of(option) for option in options if not option.hidden)
    return Command(
        (name,),
        summary,
        groups=(Group("", flags),),
        commands=tuple(
            Command((name, word), text, operands=(operands[word],) if word in operands else ())
            for word, text in commands.items()
        ),
        one_dash=True,
    )


def flag_of(option: Option) -> Flag:
    """A daemon's flag."""
    value = None if option.is_boolean else value_of(option)
    default = show(option.default)
    if option.is_boolean and default == "false":
        default = ""
    return Flag((f"--{option.name}",), option.help, value, default)


def value_of(option: Option) -> Value:
    """What a daemon's setting takes; a switch takes true or false."""
    if option.is_boolean:
        return Value("true|false", Kind.WORDS, ("true", "false"))
    if words := choices(option.parse):
        return Value("|".join(words), Kind.WORDS, words)
    return Value(option.metavar, _KINDS.get(option.metavar, Kind.NOTHING))


def parser_command(parser: argparse.ArgumentParser, words: tuple[str, ...], text: str) -> Command:
    """The command that *parser* reads, with all below it; *text* says what it does."""
    groups, operands, commands = [], [], []
    for group in parser._action_groups:
        flags = []
        for action in group._group_actions:
            if action.help == argparse.SUPPRESS:
                continue
            if isinstance(action, argparse._SubParsersAction):
                commands += _below(action, words)
            elif action.option_strings:
                flags.append(_flag(parser, action, words))
            else:
                operands.append(_operand(parser, action, words))
        if flags:
            own = group.title not in {"positional arguments", "options"}
            groups.append(Group(group.title or "" if own else "", tuple(flags)))
    return Command(
        words,
        text or parser.description or "",
        groups=tuple(groups),
        operands=tuple(operands),
        commands=tuple(commands),
        remainder=_REMAINDERS.get(words),
    )


def _below(
    action: "argparse._SubParsersAction[argparse.ArgumentParser]", words: tuple[str, ...]
) -> list[Command]:
    texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
    return [
        parser_command(parser, (*words, name), texts.get(name, ""))
        for name, parser in action.choices.items()
    ]


def _flag(parser: argparse.ArgumentParser, action: argparse.Action, words: tuple[str, ...]) -> Flag:
    value = None if action.nargs == 0 else _value(action, words)
    rivals = parser._mutually_exclusive_groups
    number = next((n for n, one in enumerate(rivals, 1) if action in one._group_actions), 0)
    return Flag(
        tuple(action.option_strings),
        _help(parser, action),
        value,
        required=action.required or (number > 0 and rivals[number - 1].required),
        rival=number,
    )


def _operand(
    parser: argparse.ArgumentParser, action: argparse.Action, words: tuple[str, ...]
) -> Operand:
    return Operand(
        _value(action, words),
        _help(parser, action),
        optional=action.nargs in {"*", "?"},
        many=action.nargs in {"*", "+"},
    )


def _value(action: argparse.Action, words: tuple[str, ...]) -> Value:
    if action.choices:
        allowed = tuple(str(word) for word in action.choices)
        return Value(_metavar(action) or "|".join(allowed), Kind.WORDS, allowed)
    name = _metavar(action) or action.dest.upper()
    if not action.option_strings and words in _WORDS:
        return Value(name, Kind.WORDS, _WORDS[words])
    if _FILES_TOO & set(action.option_strings):
        return Value(name, Kind.FILE)
    if name == "NODE" and words[:2] == ("barenode", "lab"):
        return Value(name, Kind.NODE)
    return Value(name, _KINDS.get(name, Kind.NOTHING))


def _metavar(action: argparse.Action) -> str:
    return " ".join(action.metavar) if isinstance(action.metavar, tuple) else action.metavar or ""


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """The help with argparse's ``%(default)s`` and its like filled in."""
    return (action.help or "") % {**vars(action), "prog": parser.prog}
