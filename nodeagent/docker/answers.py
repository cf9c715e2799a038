"""Docker's answers as values; each raises ValueError when an answer is not of the known form."""

import functools
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar

from nodeagent.docker.api import EngineEvent, EngineInfo, Entry, Image

P = ParamSpec("P")
R = TypeVar("R")

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)"
)


def _checked(parse: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(parse)
    def careful(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return parse(*args, **kwargs)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"Docker's answer has an unknown form ({type(error).__name__}: {error})"
            ) from error

    return careful


def api_version(least: str, most: str, wanted: str) -> str:
    """The API version to speak: *wanted* within what the daemon offers; ValueError for none."""
    low, want, high = (_version(text) for text in (least or wanted, wanted, most))
    return "{}.{}".format(*max(low, min(want, high)))


def at_least(version: str, least: str) -> bool:
    """Whether the API *version* is *least* or later."""
    return _version(version) >= _version(least)


def _version(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,3})\.(\d{1,4})", text)
    if found is None:
        raise ValueError(f"Docker names an API version {text!r} that is none")
    return int(found[1]), int(found[2])


@_checked
def engine_info(document: Mapping[str, Any], version: str) -> EngineInfo:
    """Out of GET /info; *version* is the API version in use."""
    return EngineInfo(
        version=str(document.get("ServerVersion") or ""),
        api_version=version,
        cgroup_driver=str(document.get("CgroupDriver") or "cgroupfs"),
        cgroup_version=str(document.get("CgroupVersion") or "1"),
        root=str(document.get("DockerRootDir") or "/var/lib/docker"),
        storage_driver=str(document.get("Driver") or ""),
        security_options=tuple(document.get("SecurityOptions") or ()),
        live_restore=bool(document.get("LiveRestoreEnabled")),
    )


@_checked
def entry(document: Mapping[str, Any]) -> Entry:
    """Out of a line of GET /containers/json."""
    return Entry(
        id=document["Id"],
        state=document["State"],
        labels=document.get("Labels") or {},
        names=tuple(name.lstrip("/") for name in document.get("Names") or ()),
        image_id=document.get("ImageID") or "",
    )


@_checked
def image(document: Mapping[str, Any]) -> Image:
    """Out of GET /images/{name}/json, or a line of GET /images/json, which says less."""
    config = document.get("Config") or {}
    return Image(
        id=document["Id"],
        tags=_real(document.get("RepoTags")),
        digests=_real(document.get("RepoDigests")),
        size=int(document.get("Size") or 0),
        user=config.get("User") or "",
        created=_created(document.get("Created")),
        stop_signal=config.get("StopSignal") or "",
        volumes=tuple(sorted(config.get("Volumes") or ())),
    )


def _real(names: list[str] | None) -> tuple[str, ...]:
    # An image without any is listed with "<none>:<none>" and "<none>@<none>" up to Docker 23.
    return tuple(name for name in names or () if "<none>" not in name)


def _created(value: object) -> str:
    if isinstance(value, int):
        try:
            return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        except (OverflowError, OSError):
            return ""
    return value if isinstance(value, str) else ""


@_checked
def event(document: Mapping[str, Any]) -> EngineEvent:
    """Out of one object of GET /events."""
    actor = document["Actor"]
    return EngineEvent(str(document["Action"]), actor["ID"], actor.get("Attributes") or {})


def since(text: str) -> str:
    """``seconds.nanoseconds`` since 1970, as GET /containers/{id}/logs takes it, of RFC 3339."""
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a time such as 2024-05-01T10:00:00Z (RFC 3339)")
    moment = datetime.fromisoformat(found[1].upper().replace(" ", "T") + found[3].upper())
    return f"{int(moment.timestamp())}.{(found[2] or '').ljust(9, '0')}"
