"""The status document as a person reads it.

Besides what its every reader needs, a pod may have ``started`` (Unix seconds) and a container
``message`` and ``retry_in`` (seconds until it is tried again); they are left out where absent.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

ROWS_SHOWN = 200
_BACK_OFFS = ("CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull")
_PHASES = {"Running": "green", "Succeeded": "green", "Pending": "yellow", "Failed": "bold red"}

Json = Mapping[str, Any]


def age(since: float | None, now: float) -> str:
    """Time passed since the Unix time *since*, in its two largest units."""
    return "-" if since is None else span(max(0.0, now - since))


def span(seconds: float) -> str:
    """A length of time such as ``3h12m``."""
    whole = int(seconds)
    for unit, size, smaller, part in (("d", 86_400, "h", 3600), ("h", 3600, "m", 60)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02d}{smaller}"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def show(document: Json, console: Console, *, now: float | None = None) -> None:
    """Print *document*, the answer of /status."""
    console.print(render(document, time.time() if now is None else now))


def render(document: Json, now: float) -> RenderableType:
    """The whole view."""
    parts: list[RenderableType] = [_facts(document, now)]
    pods = document["pods"]
    if pods:
        parts += [Text(), _pods(pods, now)]
    waiting = [
        (pod, container)
        for pod in pods
        for container in pod["containers"]
        if container["reason"] in _BACK_OFFS
    ]
    if waiting:
        parts += [Text(), _back_offs(waiting)]
    manifests = document["manifests"]
    if manifests is not None and manifests["errors"]:
        parts += [Text(), _manifest_errors(manifests["errors"])]
    if document["problems"]:
        parts += [Text(), _problems(document["problems"], now)]
    return Group(*parts)


def _facts(document: Json, now: float) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    state = Text("ready", "green") if document["ready"] else Text("NOT READY", "bold red")
    state.append(f", up {age(document['started'], now)}, version {document['version']}", "default")
    table.add_row("nodeagent", state)
    table.add_row("node", _node_line(document["node"]))
    table.add_row("api", _api_line(document["api"]))
    docker = document["docker"]
    line = Text("answers", "green") if not docker["trouble"] else Text("TROUBLE", "bold red")
    line.append(f", version {docker['version'] or 'unknown'}", "default")
    if docker["trouble"]:
        line.append(f"\n{docker['trouble']}", "red")
    table.add_row("docker", line)
    manifests = document["manifests"]
    if manifests is None:
        table.add_row("manifests", "none are read")
    else:
        wrong = f", {_count(len(manifests['errors']), 'fault')}" if manifests["errors"] else ""
        pods = _count(manifests["pods"], "pod")
        table.add_row("manifests", Text(f"{manifests['path']}: {pods}{wrong}"))
    running = sum(pod["phase"] == "Running" for pod in document["pods"])
    table.add_row("pods", f"{len(document['pods'])}, {running} running")
    pulling = document["images"]["pulling"]
    if pulling:
        table.add_row("pulling", Text(", ".join(map(str, pulling))))
    return table


def _node_line(node: Json) -> Text:
    line = Text(f"{node['name']} at {node['address'] or 'no address yet'}, ")
    if not node["registered"]:
        line.append("not registered", "yellow")
    elif node["ready"]:
        line.append("Ready", "green")
    else:
        line.append("NotReady", "bold red")
    if node["message"]:
        line.append(f": {node['message']}", "default")
    return line


def _api_line(api: Json | None) -> Text:
    if api is None:
        return Text("none, manifests only")
    line = Text("connected" if api["endpoint"] else "NOT CONNECTED")
    line.stylize("green" if api["endpoint"] else "bold red")
    line.append(f", {api['endpoint'] or 'no API server answered yet'}", "default")
    for url, text in api["errors"].items():
        line.append(f"\n{url}: {text}", "red")
    return line


def _pods(pods: list[Json], now: float) -> Table:
    table = _table("bold", "POD", "SOURCE", "PHASE", "READY", "RESTARTS", "AGE", "ADDRESS", "")
    for pod in pods[:ROWS_SHOWN]:
        table.add_row(
            Text(f"{pod['namespace']}/{pod['name']}"),
            pod["source"],
            Text(pod["phase"], _PHASES.get(pod["phase"], "")),
            pod["ready"],
            str(pod["restarts"]),
            age(pod.get("started"), now),
            pod["address"] or "-",
            Text(pod["message"]),
        )
    return _cut(table, len(pods))


def _back_offs(waiting: list[tuple[Json, Json]]) -> Table:
    table = _table("bold yellow", "WAITING CONTAINER", "WHY", "RESTARTS", "NEXT TRY", "")
    for pod, container in waiting[:ROWS_SHOWN]:
        left = container.get("retry_in")
        table.add_row(
            Text(f"{pod['namespace']}/{pod['name']} {container['name']}"),
            container["reason"],
            str(container["restarts"]),
            "-" if left is None else f"in {span(left)}",
            Text(container.get("message", "")),
        )
    return _cut(table, len(waiting))


def _manifest_errors(errors: list[Json]) -> Table:
    table = _table("bold yellow", "MANIFEST", "WHY")
    for error in errors[:ROWS_SHOWN]:
        where = f"{error['file']}:{error['line']}" if error["line"] else str(error["file"])
        table.add_row(Text(where), Text(error["text"]))
    return _cut(table, len(errors))


def _problems(problems: list[Json], now: float) -> Table:
    table = _table("bold red", "PROBLEM", "SINCE", "WHAT")
    for one in problems[:ROWS_SHOWN]:
        style = "red" if one["blocking"] else ""
        table.add_row(Text(one["key"], style), age(one["since"], now), Text(one["text"], style))
    return _cut(table, len(problems))


def _table(style: str, *names: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style=style)
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def _cut(table: Table, count: int) -> Table:
    if count > ROWS_SHOWN:
        blanks: Iterable[str] = [""] * (len(table.columns) - 1)
        table.add_row(f"... and {count - ROWS_SHOWN} more: --json shows all", *blanks)
    return table


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
