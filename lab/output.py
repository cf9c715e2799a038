"""What the operator sees: tables and colour on a terminal, plain lines elsewhere, or JSON.

Results go to stdout; progress and errors go to stderr, so that ``--json`` can be piped.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lab.status import LabStatus, NodeStatus

_COLOURS = {
    "ready": "green",
    "starting": "yellow",
    "degraded": "yellow",
    "dead": "red",
    "yes": "green",
    "no": "red",
}


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table: a header and rows of the same length."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def _services(node: NodeStatus) -> str:
    parts = []
    for service in node.services:
        again = f" (restarted {service.restarts}x)" if service.restarts else ""
        parts.append(f"{service.name} {service.state}{again}")
    for name, ready, said in (
        ("netd", node.netd_ready, node.netd),
        ("nodeagent", node.nodeagent_ready, node.nodeagent),
    ):
        if ready is False:
            reasons = said.get("not_ready") if isinstance(said, dict) else None
            why = f": {'; '.join(map(str, reasons))}" if reasons else ""
            parts.append(f"{name} says not ready{why}")
    return ", ".join(parts) or "-"


def status_sheet(lab: LabStatus) -> Sheet:
    """The nodes of a lab."""
    rows = tuple(
        (
            node.name,
            node.state,
            node.address,
            node.subnet or "-",
            str(node.pid) if node.pid else "-",
            _services(node),
        )
        for node in (lab.fabric, *lab.nodes)
    )
    return Sheet(("node", "state", "address", "pods", "pid", "services"), rows)


def headline(lab: LabStatus) -> str:
    """One line about the lab as a whole."""
    text = f"lab {lab.name} is {lab.state}; pods {lab.overlay}"
    if (plane := lab.control) is None:
        return text
    text += f", services {lab.service_range}; API {plane.url}"
    if not plane.ready:
        return f"{text} does not answer"
    return (
        f"{text}, {plane.nodes_ready} of {plane.nodes} nodes Ready,"
        f" {plane.pods_ready} of {plane.pods} pods Ready"
    )


def list_sheet(labs: Sequence[LabStatus], partial: Sequence[str]) -> Sheet:
    """All labs of this machine; *partial* are those without a readable state file."""
    rows = [
        (lab.name, lab.state, str(len(lab.nodes)), lab.underlay, lab.overlay) for lab in labs
    ] + [(name, "partly there", "-", "-", "-") for name in partial]
    return Sheet(("lab", "state", "nodes", "hosts", "pods"), tuple(sorted(rows)))


class Output:
    """Writes results and progress. *quiet* drops progress; *clock* is in seconds."""

    def __init__(
        self,
        stdout: Console,
        stderr: Console,
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stdout = stdout
        self._stderr = stderr
        self._quiet = quiet
        self._clock = clock
        self._began = clock()

    def progress(self, subject: str, text: str) -> None:
        """One step of progress, with the seconds since the command began."""
        if self._quiet:
            return
        seconds = self._clock() - self._began
        self._stderr.print(
            f"[dim]{seconds:6.1f}s[/dim]  [bold]{escape(f'{subject:<10}')}[/bold] {escape(text)}",
            highlight=False,
            soft_wrap=True,
        )

    def line(self, text: str) -> None:
        """One line of result."""
        self._stdout.print(escape(text), highlight=False, soft_wrap=True)

    def error(self, text: str) -> None:
        """What went wrong."""
        self._stderr.print(f"[red]barenode:[/red] {escape(text)}", highlight=False, soft_wrap=True)

    def json(self, value: object) -> None:
        """A document for programs."""
        document = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
        self._stdout.file.write(document + "\n")

    def sheet(self, sheet: Sheet) -> None:
        """A table, or on something that is no terminal, aligned columns."""
        if not self._stdout.is_terminal:
            for line in plain(sheet):
                self._stdout.file.write(line + "\n")
            return
        table = Table(*sheet.header, header_style="bold", box=None, pad_edge=False)
        for row in sheet.rows:
            cells = []
            for cell in row:
                colour = _COLOURS.get(cell.split(",", 1)[0])
                cells.append(f"[{colour}]{escape(cell)}[/{colour}]" if colour else escape(cell))
            table.add_row(*cells)
        self._stdout.print(table)


def plain(sheet: Sheet) -> list[str]:
    """*sheet* as text lines in aligned columns, two blanks apart."""
    rows = [sheet.header, *sheet.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(sheet.header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
