"""Credentials for registries: out of image pull secrets and Docker's own configuration files.

Entries are matched as the kubelet does: by host, host and port, or these with the beginning of a
repository's path; ``*`` stands for one part of a host's name. Docker Hub's entry may be under any
of its names. Nothing here ever appears in a log or a repr.
"""

import base64
import binascii
import fnmatch
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from nodeagent.api.port import SecretData
from nodeagent.docker.references import DOCKER_HUB, Reference

log = logging.getLogger(__name__)

CONFIG_JSON = "kubernetes.io/dockerconfigjson"
CONFIG_LEGACY = "kubernetes.io/dockercfg"
_KEYS = {CONFIG_JSON: ".dockerconfigjson", CONFIG_LEGACY: ".dockercfg"}

HUB_ADDRESS = "https://index.docker.io/v1/"
"""How the Docker command names Docker Hub in its file and to the Engine."""
_HUB = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})

LARGEST = 1 << 20
"""Bytes of the largest file that is read."""


@dataclass(frozen=True, slots=True)
class Credential:
    """One entry: *host* (with port) may have ``*``, *path* is the beginning of a repository."""

    host: str
    path: str = ""
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def matches(self, wanted: Reference) -> bool:
        """Whether it is for that registry and repository."""
        host = DOCKER_HUB if self.host in _HUB else self.host
        if not _host_matches(host, wanted.registry):
            return False
        return not self.path or f"{wanted.repository}/".startswith(f"{self.path}/")

    @property
    def weight(self) -> tuple[int, bool, int]:
        """The higher, the more specific."""
        return len(self.path), "*" not in self.host, len(self.host)

    def auth(self, registry: str) -> dict[str, str]:
        """The engine's form (Docker Engine API 1.41, "Authentication")."""
        address = HUB_ADDRESS if registry == DOCKER_HUB else registry
        if self.token:
            return {"identitytoken": self.token, "serveraddress": address}
        return {"username": self.username, "password": self.password, "serveraddress": address}


def _host_matches(pattern: str, host: str) -> bool:
    pattern, _, port = pattern.partition(":")
    host, _, wanted = host.partition(":")
    parts, others = pattern.lower().split("."), host.lower().split(".")
    return (
        port == wanted
        and len(parts) == len(others)
        and all(fnmatch.fnmatchcase(other, part) for part, other in zip(parts, others, strict=True))
    )


def parse(data: bytes, source: str, *, legacy: bool = False) -> tuple[list[Credential], list[str]]:
    """The entries of a configuration file, and sentences about what cannot be used of it.

    *legacy* is the form of ``.dockercfg``, which has the entries at the top.
    """
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        return [], [f"{source}: not JSON ({error})"]
    if not isinstance(document, dict):
        return [], [f"{source}: not a JSON object"]
    wrong = [
        f"{source}: {key} names a credential helper; helpers are not run: put the credentials "
        "into auths, or into a secret that imagePullSecrets names"
        for key in ("credsStore", "credHelpers")
        if document.get(key) and not legacy
    ]
    entries = document if legacy else document.get("auths") or {}
    if not isinstance(entries, dict):
        return [], [*wrong, f"{source}: auths is not an object"]
    found = []
    for key, entry in entries.items():
        one = _entry(key, entry) if isinstance(entry, dict) else "is not an object"
        if isinstance(one, Credential):
            found.append(one)
        elif one:
            wrong.append(f"{source}: the entry for {key} {one}")
    return found, wrong


def _entry(key: str, entry: Mapping[str, Any]) -> Credential | str:
    """The credential, or what is wrong; "" for an entry that a credential helper stands for."""
    host, path = _place(key)
    username, password, token = (
        str(entry.get(one) or "") for one in ("username", "password", "identitytoken")
    )
    auth = entry.get("auth")
    if auth and not (username and password):
        try:
            pair = base64.b64decode(str(auth).strip(), validate=True).decode()
        except (binascii.Error, ValueError):
            return "has an auth that is not base64 of user:password"
        # Docker pads what it writes with NUL.
        username, colon, password = pair.rstrip("\0").partition(":")
        if not colon:
            return "has an auth that is not base64 of user:password"
    if not host:
        return "names no registry"
    if token:
        return Credential(host, path, token=token)
    return Credential(host, path, username, password) if username or password else ""


def _place(key: str) -> tuple[str, str]:
    """Host and path of an entry's name, such as ``https://index.docker.io/v1/``."""
    for scheme in ("https://", "http://"):
        key = key.removeprefix(scheme)
    host, _, path = key.partition("/")
    for api in ("v1", "v2"):
        if path == api or path.startswith(f"{api}/"):
            path = path[3:]
    return host, path.strip("/")


def of_secrets(secrets: Iterable[SecretData]) -> tuple[list[Credential], list[str]]:
    """The entries of image pull secrets, and sentences about what cannot be used."""
    found: list[Credential] = []
    wrong: list[str] = []
    for one in secrets:
        key = _KEYS.get(one.type)
        if key is None:
            wrong.append(f"image pull secret: its type {one.type!r} is not {CONFIG_JSON}")
        elif key not in one.data:
            wrong.append(f"image pull secret: it has no key {key}")
        else:
            more, bad = parse(one.data[key], "image pull secret", legacy=key == ".dockercfg")
            found += more
            wrong += bad
    return found, wrong


class Keychain:
    """Credentials of this node (*files*, read when needed) and of secrets."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = tuple(dict.fromkeys(files))
        self._told: set[str] = set()

    @classmethod
    def of_node(cls, root: Path, home: Path | None = None) -> "Keychain":
        """The usual files; *root* is ``--root-dir``, *home* the user's folder if there is one."""
        homes = [*([home] if home else []), Path("/root")]
        return cls([root / "config.json", *(one / ".docker" / "config.json" for one in homes)])

    def candidates(
        self, wanted: Reference, secrets: Iterable[SecretData] = ()
    ) -> list[dict[str, str]]:
        """All that may do, in the engine's form: secrets' first, each the most specific first."""
        found: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
        for entries in (self._of_secrets(secrets), self._of_files()):
            matching = [one for one in entries if one.matches(wanted)]
            for one in sorted(matching, key=lambda one: one.weight, reverse=True):
                auth = one.auth(wanted.registry)
                found.setdefault(tuple(sorted(auth.items())), auth)
        return list(found.values())

    def _of_secrets(self, secrets: Iterable[SecretData]) -> list[Credential]:
        found, wrong = of_secrets(secrets)
        self._tell(wrong)
        return found

    def _of_files(self) -> list[Credential]:
        found: list[Credential] = []
        for file in self._files:
            try:
                with file.open("rb") as opened:
                    data = opened.read(LARGEST + 1)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._tell([f"{file}: cannot be read: {error.strerror}"])
                continue
            if len(data) > LARGEST:
                self._tell([f"{file}: larger than {LARGEST} bytes, not read"])
                continue
            entries, wrong = parse(data, str(file))
            found += entries
            self._tell(wrong)
        return found

    def _tell(self, sentences: Iterable[str]) -> None:
        for one in sentences:
            if one not in self._told and len(self._told) < 1000:
                self._told.add(one)
                log.warning("%s", one)
