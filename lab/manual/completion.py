"""The script with which bash completes commands, flags and values. Pure."""

from collections.abc import Sequence
from shlex import quote

from lab.manual.bashengine import ENGINE
from lab.manual.model import Command, Flag, Kind, Operand, Value
from lab.store import Paths

_WIDTH = 96
_HEAD = """# Completion of barenode, netd and nodeagent for bash; made by barenode completion.
#
# The table has, for each command, the words that may follow it, its switches, its flags with the
# kind of value that each takes, the kinds of its operands (+: and more of the last), and the kind
# of what may follow --. A kind that begins with = lists all values.
"""


def script(programs: Sequence[Command], paths: Paths) -> str:
    """The script for *programs*; *paths* say where labs are."""
    cases = [line for program in programs for line in _program(program)]
    table = ["_barenode_table() {", "    case $1 in", *cases, "    esac", "}"]
    return "\n".join([_HEAD, *table, "", *_labs(paths)]) + ENGINE


def kind_of(value: Value | None) -> str:
    """A value's kind as the script has it."""
    if value is None:
        return ""
    return "=" + " ".join(value.words) if value.kind is Kind.WORDS else str(value.kind)


def _program(program: Command) -> list[str]:
    if not program.one_dash:
        return [line for command in program.walk() for line in _case(command)]
    # A daemon's flags may stand before and after its command.
    lines = _case(program)
    for command in program.commands:
        lines += [
            f"        {quote(' '.join(command.words))})",
            f"            _barenode_table {' '.join(program.words)}",
            "            commands=()",
            *_array("operands", [_operand(one) for one in command.operands]),
            "            ;;",
        ]
    return lines


def _case(command: Command) -> list[str]:
    switches = [name for flag in command.flags if not flag.value for name in flag.names]
    valued = [one for flag in command.flags if flag.value for one in _valued(flag)]
    lines = [
        f"        {quote(' '.join(command.words))})",
        *_array("commands", [one.words[-1] for one in command.commands]),
        *_array("switches", switches),
        *_array("valued", valued),
        *_array("operands", [_operand(one) for one in command.operands]),
    ]
    if command.remainder:
        lines.append(f"            remainder='{kind_of(command.remainder)}'")
    return [*lines, "            ;;"]


def _array(name: str, words: Sequence[str]) -> list[str]:
    """Lines that set array *name* to *words*, of some 96 columns; none for no words."""
    lines: list[str] = []
    for word in map(_quoted, words):
        if lines and len(lines[-1]) + len(word) < _WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(f"                {word}")
    return [f"            {name}=(", *lines, "            )"] if lines else []


def _quoted(word: str) -> str:
    """*word* as bash reads it; one with = in front looks like a slip (shellcheck SC2191)."""
    return f"'{word}'" if word.startswith("=") else quote(word)


def _valued(flag: Flag) -> list[str]:
    return [f"{name}:{kind_of(flag.value)}" for name in flag.names]


def _operand(operand: Operand) -> str:
    return kind_of(operand.value) + ("+" if operand.many else "")


def _labs(paths: Paths) -> list[str]:
    """Functions that find labs and their nodes by their files: asking would take far longer."""
    up = quote(str(paths.state("*")))
    data = f"${{BARENODE_DATA:-{paths.data}}}"
    kept = f'"{data}/{paths.kept("*").relative_to(paths.data)}"'
    nodes = f'"{data}/{paths.disk("$lab", "*").relative_to(paths.data)}"'
    keys = paths.pki("*").name
    return [
        "# Sets found to the names of labs, up or kept.",
        "_barenode_labs() {",
        f"    mapfile -t found < <(compgen -G {up}; compgen -G {kept})",
        '    found=("${found[@]%/*}")',
        "}",
        "",
        "# Sets found to the nodes of $lab, by their disks.",
        "_barenode_nodes() {",
        "    local path",
        "    while read -r path; do",
        f'        [[ ! -d $path || $path == */{keys} ]] || found+=("$path")',
        f"    done < <(compgen -G {nodes})",
        "}",
    ]
