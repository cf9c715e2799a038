"""Whether probes and hooks make sense."""

import re
from collections.abc import Iterator

from nodeagent.pods import checknames as check
from nodeagent.pods.container import Container, Exec, Handler, HttpGet, Probe, TcpSocket
from nodeagent.pods.known import IntOrString

HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header's name: token of RFC 9110."""

_PROBE_KINDS = {"exec": "exec", "httpGet": "http_get", "tcpSocket": "tcp_socket"}
_HOOK_KINDS = {"exec": "exec", "httpGet": "http_get", "sleep": "sleep"}


def probe_problems(path: str, container: Container) -> Iterator[str]:
    """Sentences about a container's probes."""
    for name, probe in (
        ("livenessProbe", container.liveness_probe),
        ("readinessProbe", container.readiness_probe),
        ("startupProbe", container.startup_probe),
    ):
        if probe is not None:
            here = f"{path}.{name}"
            yield from _handlers(here, probe, _PROBE_KINDS, container)
            yield from _thresholds(here, probe)
            if name != "readinessProbe" and probe.success_threshold > 1:
                yield f"{here}.successThreshold is {probe.success_threshold}: only 1 makes sense"
            if name == "readinessProbe" and probe.termination_grace_period_seconds is not None:
                yield f"{here}.terminationGracePeriodSeconds: this probe ends nothing, leave it out"


def lifecycle_problems(path: str, container: Container) -> Iterator[str]:
    """Sentences about a container's hooks."""
    for name, hook in (
        ("postStart", container.lifecycle.post_start),
        ("preStop", container.lifecycle.pre_stop),
    ):
        if hook is None:
            continue
        here = f"{path}.lifecycle.{name}"
        if hook.tcp_socket is not None:
            yield f"{here}.tcpSocket does nothing useful in a hook: use exec, httpGet or sleep"
        else:
            yield from _handlers(here, hook, _HOOK_KINDS, container)
        if hook.sleep is not None:
            yield from check.at_least(f"{here}.sleep.seconds", hook.sleep.seconds, 0)


def _thresholds(path: str, probe: Probe) -> Iterator[str]:
    yield from check.at_least(f"{path}.initialDelaySeconds", probe.initial_delay_seconds, 0)
    yield from check.at_least(f"{path}.timeoutSeconds", probe.timeout_seconds, 1)
    yield from check.at_least(f"{path}.periodSeconds", probe.period_seconds, 1)
    yield from check.at_least(f"{path}.successThreshold", probe.success_threshold, 1)
    yield from check.at_least(f"{path}.failureThreshold", probe.failure_threshold, 1)
    yield from check.at_least(
        f"{path}.terminationGracePeriodSeconds", probe.termination_grace_period_seconds, 1
    )


def _handlers(
    path: str, owner: Probe | Handler, kinds: dict[str, str], container: Container
) -> Iterator[str]:
    present = {k: part for k, field in kinds.items() if (part := getattr(owner, field)) is not None}
    yield from check.exactly_one(path, present, kinds)
    for name, part in present.items():
        here = f"{path}.{name}"
        if isinstance(part, Exec) and not part.command:
            yield f"{here}.command is empty: name the program to run"
        elif isinstance(part, HttpGet):
            yield from _port(f"{here}.port", part.port, container)
            yield from _http(here, part)
        elif isinstance(part, TcpSocket):
            yield from _port(f"{here}.port", part.port, container)
            yield from _host(f"{here}.host", part.host)


def _http(path: str, request: HttpGet) -> Iterator[str]:
    yield from check.one_of(f"{path}.scheme", request.scheme, ("HTTP", "HTTPS"))
    yield from _host(f"{path}.host", request.host)
    if not request.path.isprintable():
        yield f"{path}.path has a control character in it: remove it"
    for number, header in enumerate(request.http_headers):
        here = f"{path}.httpHeaders[{number}]"
        if not HEADER.fullmatch(header.name):
            yield f"{here}.name is {check.shown(header.name)}: use letters, digits and -"
        if {*header.value} & {*"\r\n\0"}:
            yield f"{here}.value has a line's end in it: remove it"


def _host(path: str, host: str) -> Iterator[str]:
    if host and (not host.isprintable() or {*host} & {*" /@?#"}):
        yield f"{path} is {check.shown(host)}: use a host name or an address"


def _port(path: str, port: IntOrString, container: Container) -> Iterator[str]:
    if isinstance(port, str) and not (port.isascii() and port.isdigit()):
        if port not in {one.name for one in container.ports if one.name}:
            yield f"{path} {check.shown(port)} is no named port of this container: name it in ports"
    else:
        yield from check.port(path, int(port) if len(str(port)) < 10 else 65536)
