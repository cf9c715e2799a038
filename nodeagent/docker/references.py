"""Image references: registry, repository, tag and digest (grammar of distribution/reference).

``nginx`` is ``docker.io/library/nginx:latest``; a first part is a registry when it has a dot, a
colon or a capital letter, or is ``localhost``.
"""

import re
from dataclasses import dataclass

DOCKER_HUB = "docker.io"
LONGEST = 255
"""Most characters of registry and repository together."""

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")
_ID = re.compile(r"(?:sha256:)?[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalised reference; *image_id* is set alone when it names an image by id."""

    registry: str = ""
    repository: str = ""
    tag: str = ""
    digest: str = ""
    image_id: str = ""

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def pinned(self) -> bool:
        """Whether it can only ever mean one image."""
        return bool(self.digest or self.image_id)

    @property
    def pull_tag(self) -> str:
        """What the engine is to pull of ``name``: the digest, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        if self.image_id:
            return self.image_id
        tag = f":{self.tag}" if self.tag else ""
        return self.name + tag + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """The reference that *text* spells; raises ValueError that says what is wrong with it."""
    if not text:
        raise ValueError("the image has no name")
    if _ID.fullmatch(text):
        return Reference(image_id="sha256:" + text.removeprefix("sha256:"))
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise ValueError(f"image {text!r}: what follows @ is not a digest such as sha256:<64 hex>")
    rest, tag = _tag(rest)
    if tag and not _TAG.fullmatch(tag):
        raise ValueError(
            f"image {text!r}: the tag may have letters, digits, '_', '.' and '-', 128 at most"
        )
    registry, repository = _split(rest)
    if not _DOMAIN.fullmatch(registry):
        raise ValueError(f"image {text!r}: {registry!r} is not a registry's host[:port]")
    if not _PATH.fullmatch(repository):
        case = ": it must be in lower case" if repository != repository.lower() else ""
        raise ValueError(f"image {text!r}: {repository!r} is not a repository{case}")
    if len(registry) + len(repository) + 1 > LONGEST:
        raise ValueError(f"image {text[:60]!r}...: a name may have {LONGEST} characters")
    return Reference(registry, repository, tag or ("" if digest else "latest"), digest)


def _tag(text: str) -> tuple[str, str | None]:
    head, slash, last = text.rpartition("/")
    last, colon, tag = last.partition(":")
    if colon and not tag:
        tag = "?:"
    return head + slash + last, tag if colon else None


def _split(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    named = any(one in first for one in ".:[") or first == "localhost" or first != first.lower()
    if not (slash and named):
        first, rest = DOCKER_HUB, text
    if first in {"index.docker.io", "registry-1.docker.io"}:
        first = DOCKER_HUB
    if first == DOCKER_HUB and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest


def names(reference: Reference, image_id: str, known: tuple[str, ...]) -> bool:
    """Whether *reference* names the image with *image_id* and the tags and digests *known*.

    Docker also takes the first digits of an id for a name: an image called ``beef`` that is not
    here would be whatever has an id that begins so.
    """
    if reference.image_id:
        return reference.image_id == image_id
    for text in known:
        try:
            one = parse(text)
        except ValueError:
            continue
        if one.name != reference.name:
            continue
        if reference.digest == one.digest if reference.digest else reference.tag == one.tag:
            return True
    return False
