"""The status document as a person reads it."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

PEERS_SHOWN = 100


def age(since: float | None, now: float) -> str:
    """Time passed since the Unix time *since*, in its two largest units."""
    if since is None:
        return "-"
    return span(max(0.0, now - since))


def span(seconds: float) -> str:
    """A length of time such as ``3h12m``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"


def show(document: Mapping[str, Any], console: Console, *, now: float | None = None) -> None:
    """Print *document*, the answer of /status."""
    console.print(render(document, time.time() if now is None else now))


def render(document: Mapping[str, Any], now: float) -> RenderableType:
    """The whole view."""
    parts: list[RenderableType] = [_facts(document, now)]
    peers = document["peers"]
    if peers:
        parts += [Text(), _peers(peers, now)]
    if document["skipped"]:
        parts += [Text(), _skipped(document["skipped"])]
    problems = [one for one in document["problems"] if not one["key"].startswith("record ")]
    if problems:
        parts += [Text(), _problems(problems, now)]
    return Group(*parts)


def _facts(document: Mapping[str, Any], now: float) -> Table:
    network, lease, etcd = document["network"], document["lease"], document["etcd"]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    ready = document["ready"]
    state = Text("ready", "green") if ready else Text("NOT READY", "bold red")
    state.append(f", up {age(document['started'], now)}, version {document['version']}", "default")
    table.add_row("netd", state)
    table.add_row("lease", _lease_line(lease, now))
    link = Text("connected" if etcd["connected"] else "NOT CONNECTED")
    link.stylize("green" if etcd["connected"] else "bold red")
    link.append(f", {etcd['endpoint'] or 'no endpoint answered yet'}", "default")
    if etcd["from_cache"]:
        link.append(", working from the saved state", "yellow")
    table.add_row("etcd", link)
    backend = network["backend"]
    if backend is not None:
        extra = f" VNI {backend['vni']} port {backend['port']}" if "vni" in backend else ""
        direct = ", direct routing" if backend.get("direct_routing") else ""
        table.add_row("network", f"{network['network']}, {backend['type']}{extra}{direct}")
    mac = f", VTEP {network['vtep_mac']}" if network["vtep_mac"] else ""
    if network["interface"]:
        where = f"{network['public_ip']} on {network['interface']}{mac}, MTU {network['mtu']}"
        table.add_row("host", Text(where))
    variant = document["iptables"]["variant"] or "not used"
    table.add_row("iptables", f"{variant}")
    sysctls = ", ".join(
        f"{one['name']}={one['wanted'] if not one['error'] else one['found'] + ' (!)'}"
        for one in document["sysctls"]
    )
    table.add_row("sysctls", Text(sysctls or "-"))
    repairs = ", ".join(f"{kind} {count}" for kind, count in document["repairs"].items())
    table.add_row("repairs", repairs or "none")
    table.add_row("peers", str(len(document["peers"])))
    return table


def _lease_line(lease: Mapping[str, Any] | None, now: float) -> Text:
    if lease is None:
        return Text("none yet", "bold red")
    line = Text(lease["subnet"], "bold")
    held = lease["state"] == "held"
    line.append(f", {lease['state']}", "green" if held else "bold yellow")
    if lease["reservation"]:
        line.append(", a reservation (never expires)", "default")
    elif lease["expires"] is not None:
        line.append(
            f", {age(lease['acquired'], now)} old, ends in {span(lease['expires'] - now)} "
            "unless renewed",
            "default",
        )
    return line


def _peers(peers: list[Mapping[str, Any]], now: float) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("PEER", "ADDRESS", "VTEP", "CHANGED"):
        table.add_column(name)
    for one in peers[:PEERS_SHOWN]:
        table.add_row(
            one["subnet"],
            one["public_ip"],
            one["vtep_mac"] or "-",
            f"{age(one['changed'], now)} ago",
        )
    if len(peers) > PEERS_SHOWN:
        table.add_row(f"... and {len(peers) - PEERS_SHOWN} more: --json shows all")
    return table


def _skipped(skipped: list[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold yellow")
    table.add_column("SKIPPED RECORD", overflow="fold")
    table.add_column("WHY", overflow="fold")
    for one in skipped[:PEERS_SHOWN]:
        table.add_row(Text(one["key"]), Text(one["reason"]))
    return table


def _problems(problems: list[Mapping[str, Any]], now: float) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold red")
    table.add_column("PROBLEM", overflow="fold")
    table.add_column("SINCE")
    table.add_column("WHAT", overflow="fold")
    for one in problems:
        style = "red" if one["blocking"] else ""
        table.add_row(Text(one["key"], style), age(one["since"], now), Text(one["text"], style))
    return table
