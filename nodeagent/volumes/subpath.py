"""A path within a volume, opened so that nothing a container does leads out of the volume.

The path is walked component by component, each opened below the one before without following
links. Links are followed by hand: one that stays within the volume is fine, one that is absolute
or climbs above the volume's root is refused. What was opened is then bound by its descriptor, so
that exchanging a folder for a link in between changes nothing. Calls block and raise OSError.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from nodeagent.errors import PodError

REASON = "CreateContainerConfigError"

MOST_LINKS = 40
"""As the kernel's own limit for one lookup (path_resolution(7))."""

DEEPEST = 200
"""Folders between the volume's root and what is bound: each takes a descriptor."""

_OPEN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Missing(PodError):  # noqa: N818 - names the state, not the fault
    """A component is not there, and none was to be made."""


@contextmanager
def opened(root: str, path: str, *, make: bool, group: int | None, what: str) -> Iterator[int]:
    """A descriptor (O_PATH) of *path* below the folder *root*.

    With *make* missing components become folders with the permissions of *root*, in *group* if
    one is given; otherwise Missing is raised. PodError, which begins with *what*, is raised for a
    path that leaves the volume; that of a subPathExpr may be mended by an annotation.
    """
    walk = _Walk(root, make=make, group=group, what=f"{what}: subPath {path!r}")
    try:
        yield walk.to(path)
    finally:
        walk.close()


class _Walk:
    def __init__(self, root: str, *, make: bool, group: int | None, what: str) -> None:
        self._what = what
        self._make = make
        self._group = group
        self._links = 0
        # The root itself is the administrator's choice and may be reached by links.
        self._stack = [os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
        self._mode = stat.S_IMODE(os.fstat(self._stack[0]).st_mode)

    def to(self, path: str) -> int:
        if path.startswith("/") or "\0" in path:
            raise PodError(REASON, f"{self._what} must be a relative path")
        if ".." in path.split("/"):
            raise PodError(REASON, f"{self._what} must not have '..' in it")
        self._follow(path)
        return self._stack[-1]

    def close(self) -> None:
        while self._stack:
            os.close(self._stack.pop())

    def _follow(self, path: str) -> None:
        for part in path.split("/"):
            if part in ("", "."):
                continue
            if part == "..":
                self._climb()
            else:
                self._enter(part)

    def _climb(self) -> None:
        if len(self._stack) == 1:
            raise PodError(REASON, f"{self._what} leads out of the volume by a symlink")
        os.close(self._stack.pop())

    def _enter(self, part: str) -> None:
        parent = self._stack[-1]
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            raise PodError(REASON, f"{self._what}: what is before {part!r} is not a folder")
        if len(self._stack) > DEEPEST:
            raise PodError(REASON, f"{self._what} is more than {DEEPEST} folders deep")
        try:
            number = os.open(part, _OPEN, dir_fd=parent)
        except FileNotFoundError:
            number = self._made(part, parent)
        if not stat.S_ISLNK(os.fstat(number).st_mode):
            self._stack.append(number)
            return
        try:
            target = os.readlink("", dir_fd=number)
        finally:
            os.close(number)
        self._links += 1
        if self._links > MOST_LINKS:
            raise PodError(REASON, f"{self._what} is a loop of symlinks")
        if target.startswith("/"):
            raise PodError(
                REASON, f"{self._what}: {part!r} is an absolute symlink, which may leave the volume"
            )
        self._follow(target)

    def _made(self, part: str, parent: int) -> int:
        if not self._make:
            raise Missing(REASON, f"{self._what} does not exist in the volume")
        try:
            os.mkdir(part, 0o700, dir_fd=parent)
        except FileExistsError:
            # Another container of the pod has just made it, or put something there.
            return os.open(part, _OPEN, dir_fd=parent)
        number = os.open(part, _OPEN, dir_fd=parent)
        if stat.S_ISDIR(os.fstat(number).st_mode):
            own = f"/proc/self/fd/{number}"
            if self._group is not None:
                os.chown(own, -1, self._group)
            os.chmod(own, self._mode)  # noqa: PTH101 - a descriptor's name, not a path
        return number
