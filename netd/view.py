"""The status document as a person reads it."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

PEERS_SHOWN = 100
_IN_TABLES = ("record ", "skipped ")
"""Problems with keys like these stand in a table of their own."""


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
    if document["peers"]:
        parts += [Text(), _peers(document["peers"], now)]
    if document["skipped"]:
        rows = [(one["key"], one["reason"]) for one in document["skipped"]]
        parts += [Text(), _skipped("SKIPPED RECORD", rows)]
    services = document["services"]
    if services is not None and services["skipped"]:
        rows = [(one["key"], one["text"]) for one in services["skipped"]]
        parts += [Text(), _skipped("SKIPPED OR CUT", rows)]
    problems = [one for one in document["problems"] if not one["key"].startswith(_IN_TABLES)]
    if problems:
        parts += [Text(), _problems(problems, now)]
    return Group(*parts)


def _facts(document: Mapping[str, Any], now: float) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    ready = document["ready"]
    state = Text("ready", "green") if ready else Text("NOT READY", "bold red")
    state.append(f", up {age(document['started'], now)}, version {document['version']}", "default")
    table.add_row("netd", state)
    services = document["services"]
    if document["halves"]["overlay"]:
        _overlay_rows(table, document, now)
    else:
        table.add_row("overlay", "off")
    if services is not None:
        _services_rows(table, services, now)
    else:
        table.add_row("services", "off")
    variants = [part["variant"] for part in (document["iptables"], services) if part is not None]
    table.add_row("iptables", next(filter(None, variants), "not used"))
    repairs = ", ".join(f"{kind} {count}" for kind, count in document["repairs"].items())
    table.add_row("repairs", repairs or "none")
    return table


def _overlay_rows(table: Table, document: Mapping[str, Any], now: float) -> None:
    network, etcd = document["network"], document["etcd"]
    table.add_row("lease", _lease_line(document["lease"], now))
    link = _connection(etcd["connected"], etcd["endpoint"], "no endpoint answered yet")
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
    sysctls = ", ".join(
        f"{one['name']}={one['wanted'] if not one['error'] else one['found'] + ' (!)'}"
        for one in document["sysctls"]
    )
    table.add_row("sysctls", Text(sysctls or "-"))
    table.add_row("peers", str(len(document["peers"])))


def _services_rows(table: Table, services: Mapping[str, Any], now: float) -> None:
    if services["listed"]:
        table.add_row(
            "services",
            f"{services['services']} with {services['endpoints']} endpoints, "
            f"{services['frontends']} addresses and ports, in {services['chains']} chains of "
            f"{services['rules']} rules",
        )
    else:
        table.add_row("services", Text("not listed yet, so no rule is touched", "bold red"))
    api = services["api"]
    link = _connection(api["connected"], api["server"], "no API server answered yet")
    if api["source"]:
        link.append(f", {api['source']}")
    link.append(f", this node is {services['node']}")
    if not api["connected"]:
        for url, text in api["endpoint_errors"].items():
            link.append(f"\n{url}: {text}", "red")
    table.add_row("api", link)
    table.add_row("last sync", Text(_sync_line(services, now)))
    table.add_row("masquerade", Text(services["masquerade"]))


def _connection(connected: bool, peer: str | None, nobody: str) -> Text:
    link = Text("connected" if connected else "NOT CONNECTED")
    link.stylize("green" if connected else "bold red")
    return link.append(f", {peer or nobody}", "default")


def _sync_line(services: Mapping[str, Any], now: float) -> str:
    count = services["pending"]
    pending = f"{count} change{'s' if count > 1 else ''} pending" if count else ""
    if services["last_sync"] is None:
        return ", ".join(filter(None, ("none yet", pending)))
    took = services["last_sync_seconds"]
    parts = (
        f"{age(services['last_sync'], now)} ago",
        "" if took is None else f"took {took * 1000:.0f} ms",
        "all rules compared" if services["last_sync_full"] else "what had changed",
        pending or "nothing pending",
    )
    return ", ".join(filter(None, parts))


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


def _skipped(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold yellow")
    table.add_column(title, overflow="fold")
    table.add_column("WHY", overflow="fold")
    for key, why in rows[:PEERS_SHOWN]:
        table.add_row(Text(key), Text(why))
    if len(rows) > PEERS_SHOWN:
        table.add_row(f"... and {len(rows) - PEERS_SHOWN} more: --json shows all")
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
