"""Files made of ConfigMaps, Secrets, fields and tokens: a value, checked before it is written."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nodeagent.errors import PodError
from nodeagent.pods.volume import KeyToPath

REASON = "FailedMount"

LONGEST_NAME = 255
"""Bytes of one part of a path, NAME_MAX of the usual file systems."""

LONGEST_PATH = 4000
"""Bytes of a path within a volume; the kernel's limit of 4096 counts the folders above, too."""

_KEY = re.compile(r"[-._a-zA-Z0-9]+")


@dataclass(frozen=True, slots=True)
class File:
    """One file: *mode* are its permission bits, *owner* a user id or None for ours."""

    data: bytes
    mode: int
    owner: int | None = None


Payload = Mapping[str, File]
"""Files by their path within the volume."""


def check_path(path: str, what: str) -> str:
    """*path*, if it stays within a volume; raises PodError that begins with *what* if not."""
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts:
        fault = "must be a relative path without '..'"
    elif parts[0].startswith(".."):
        # Names that begin so are the ones by which contents are swapped.
        fault = "must not begin with '..'"
    elif "\0" in path or "" in parts or "." in parts:
        fault = "must not have empty parts, '.' or NUL in it"
    elif len(path.encode(errors="replace")) > LONGEST_PATH or any(
        len(part.encode(errors="replace")) > LONGEST_NAME for part in parts
    ):
        fault = f"is longer than {LONGEST_PATH} bytes, or a part of it than {LONGEST_NAME}"
    else:
        return path
    raise PodError(REASON, f"{what}: path {path[:200]!r} {fault}")


def of_keys(
    data: Mapping[str, bytes],
    items: Sequence[KeyToPath],
    *,
    mode: int,
    optional: bool,
    what: str,
) -> dict[str, File]:
    """The files of a ConfigMap or Secret: all its keys, or only *items* if there are any.

    *what* names it in the PodError raised for a key that is missing or is no name of a file.
    """
    if not items:
        return {_key(key, what): File(value, mode) for key, value in data.items()}
    found = {}
    for item in items:
        if item.key not in data:
            if optional:
                continue
            raise PodError(REASON, f"{what} has no key {item.key!r}")
        path = check_path(item.path, f"key {item.key!r} of {what}")
        found[path] = File(data[item.key], mode if item.mode is None else item.mode)
    return found


def _key(key: str, what: str) -> str:
    if not _KEY.fullmatch(key) or key == "." or key.startswith("..") or len(key) > LONGEST_NAME:
        raise PodError(
            REASON,
            f"{what}: key {key[:200]!r} is no name of a file: keys are made of letters, digits, "
            "'-', '_' and '.', and do not begin with '..'",
        )
    return key


def check_tree(paths: Iterable[str], what: str) -> None:
    """Raise PodError when one of *paths* would have to be a file and a folder at once."""
    files = set(paths)
    for path in sorted(files):
        parts = path.split("/")
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            if above in files:
                raise PodError(REASON, f"{what}: {above!r} is a file, and {path!r} lies below it")
