"""The explanation of a packet's path as a person reads it."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

WIDE = 2000
"""Columns where the output goes to a file or a program."""

RULES_SHOWN = 40
"""Most rules of one answer that are shown; --json has all."""


def show(document: Mapping[str, Any], console: Console) -> None:
    """Print *document*, the answer of /explain."""
    if not console.is_terminal:
        # Without a window a rule stays on one line, so that it can be searched for.
        console.width = WIDE
    console.print(render(document))


def render(document: Mapping[str, Any]) -> RenderableType:
    """The whole explanation."""
    parts: list[RenderableType] = []
    for number, answer in enumerate(document["answers"]):
        parts += [Text()] if number else []
        parts += _answer(answer)
    parts += [_wrong(text) for text in document["wrong"]]
    if not parts:
        parts.append(_wrong(f"nothing is known of {document['target']}"))
    return Group(*parts)


def _answer(answer: Mapping[str, Any]) -> list[RenderableType]:
    port = f", port {answer['port']}" if answer["port"] else ""
    title = Text(answer["frontend"], "bold")
    title.append(f"  {answer['kind']} of {answer['service']}{port}", "default")
    parts: list[RenderableType] = [_tree(title, answer["steps"])]
    if answer["endpoints"]:
        parts.append(Padding(_endpoints(answer["endpoints"]), (0, 0, 0, 4), expand=False))
    parts += [
        Padding(Text(f"note: {text}"), (0, 0, 0, 4), expand=False) for text in answer["notes"]
    ]
    parts += [Padding(_wrong(text), (0, 0, 0, 4), expand=False) for text in answer["wrong"]]
    return parts


def _tree(title: Text, steps: list[Mapping[str, str]]) -> Tree:
    """Each chain below the one that enters it, with its rules."""
    tree = Tree(title, guide_style="dim")
    branch, chain = tree, None
    for step in steps[:RULES_SHOWN]:
        if step["chain"] != chain:
            chain = step["chain"]
            branch = branch.add(Text(f"{step['table']} {chain}", "cyan"))
        branch.add(Text(step["rule"], overflow="fold"))
    if len(steps) > RULES_SHOWN:
        branch.add(Text(f"... and {len(steps) - RULES_SHOWN} more rules: --json shows all"))
    return tree


def _endpoints(endpoints: list[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("ENDPOINT")
    table.add_column("PROBABILITY", justify="right")
    table.add_column("NODE")
    for one in endpoints[:RULES_SHOWN]:
        node = one["node"] or "-"
        where = Text(f"{node} (this one)" if one["local"] else node)
        table.add_row(Text(one["address"]), f"{one['probability']:.1%}", where)
    if len(endpoints) > RULES_SHOWN:
        table.add_row(f"... and {len(endpoints) - RULES_SHOWN} more")
    return table


def _wrong(text: str) -> Text:
    return Text(text, "bold red")
