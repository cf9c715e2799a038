"""Static pods from a manifest file or a folder of them, as they change.

    inotify --> look (in a thread) --> Book --> on_change
    every 20 s ----^

A notice only says that a look is due; the look alone decides. While the folder cannot be looked
at, the pods stay as they are.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hostkit.errors import cut
from hostkit.files import write_atomic
from hostkit.inotify import Inotify
from hostkit.problems import Problems
from nodeagent.pods.model import decode
from nodeagent.sources import folder
from nodeagent.sources.book import Book
from nodeagent.sources.folder import FolderWatch, Look
from nodeagent.sources.manifests import Check, Manifest, ManifestError, StaticPod, parse

log = logging.getLogger(__name__)

GATHER = 0.02
"""Seconds for which further notices are gathered before a look."""
MISSING = 2.0
"""Seconds between looks at a path that is not there."""
HANGS = 10.0
"""Seconds after which a look that does not end is named."""
MOST_TOLD = 5
"""Most sentences about one file among the problems; ``errors`` has all."""


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class ManifestSource:
    """The pods of the manifests at *path*, a file or a folder, for the node called *node_name*.

    *on_change* is called when ``pods``, ``errors`` or ``listed`` have changed. *check* says what
    cannot be honoured of a pod. *every* is in seconds. *memory* is a file that keeps the pods
    over a restart, so that those whose manifest is broken then go on too.
    """

    def __init__(
        self,
        path: Path,
        node_name: str,
        on_change: Callable[[], None],
        problems: Problems,
        *,
        check: Check,
        memory: Path | None = None,
        every: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], str] = _now,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.path = path
        self._node = node_name
        self._on_change = on_change
        self._problems = problems
        self._check = check
        self._memory = memory
        self._every = every
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._book = Book(_recall(memory, node_name) if memory else None)
        self._remembered = self._places()
        self._was_file = False
        self._no_notices = ""
        self._wake = asyncio.Event()
        self._due = 0.0
        self._poked = True
        self.listed = False

    @property
    def pods(self) -> Mapping[str, StaticPod]:
        """The pods that are to run, by UID; a pod that stays the same stays the same object."""
        return self._book.pods

    @property
    def errors(self) -> Sequence[ManifestError]:
        """What is wrong in the files."""
        return self._book.errors

    def poke(self) -> None:
        """Look soon."""
        self._poked = True
        self._wake.set()

    async def run(self) -> None:
        """Follow the manifests for ever."""
        with contextlib.ExitStack() as stack:
            queue = self._open(stack)
            watch = FolderWatch(self.path, queue) if queue is not None else None
            loop = asyncio.get_running_loop()
            while True:
                wait = await self.look(watch)
                # The thread that looks takes the notices; meanwhile they must not wake us.
                if queue is not None:
                    loop.add_reader(queue, self._wake.set)
                try:
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                except TimeoutError:
                    self._poked = True
                finally:
                    if queue is not None:
                        loop.remove_reader(queue)
                await self._sleep(GATHER)
                self._wake.clear()

    async def look(self, watch: FolderWatch | None = None) -> float:
        """Look, unless *watch* has no notice about our path; seconds until the next look.

        A look is also made when its time has come.
        """
        due, self._poked = self._poked, False
        work = asyncio.ensure_future(asyncio.to_thread(self._look, watch, due))
        done, _ = await asyncio.wait({work}, timeout=HANGS)
        if not done:
            text = f"{self.path}: reading takes more than {HANGS:g} s: are its disks there?"
            self._problems.set("manifests", text)
        found = await work
        if found is not None:
            self._due = self._clock() + self._take(found)
            await self._remember()
        return max(0.0, self._due - self._clock())

    def _places(self) -> frozenset[tuple[str, str]]:
        """The pods that count, each with its file."""
        files = self._book.by_file.items()
        return frozenset((file, one.pod.uid) for file, pods in files for one in pods)

    async def _remember(self) -> None:
        """Write down which pods there are, if that is not done yet."""
        current = self._places()
        if self._memory is None or current == self._remembered:
            return
        trouble = await asyncio.to_thread(_write, self._memory, self._book.by_file)
        self._problems.update("manifest memory", trouble)
        if not trouble:
            self._remembered = current

    def _take(self, found: "_Found") -> float:
        """Make use of what was found; seconds until the next look."""
        seen, book = found.look, self._book
        before = self.listed, set(book.pods), book.errors
        wait = book.take(seen, found.manifests, self._clock())
        self._was_file = self._was_file if seen.missing else seen.file
        # With a memory, what ran before is known without the folder.
        whole = not (seen.missing and self._memory is None) and not book.unsure
        self.listed = self.listed or whole
        self._tell(seen, found.trouble)
        if (self.listed, set(book.pods), book.errors) != before:
            self._on_change()
        rest = min(self._every, MISSING) if seen.missing else self._every
        return rest if wait is None else min(rest, wait)

    def _tell(self, seen: Look, trouble: str) -> None:
        """Name what is wrong."""
        text = seen.missing
        if text:
            text += "; its pods go on" if self.pods else ""
        elif seen.left_out:
            text = f"{self.path}: {seen.left_out} files beyond {folder.MOST_FILES} are left out"
        self._problems.update("manifests", text)
        self._problems.update(
            "manifest notices",
            trouble
            and f"changes in {self.path} are seen every {self._every:g} s only: {trouble}; "
            "see the sysctls fs.inotify.max_user_watches and max_user_instances",
        )
        gathered: dict[str, list[str]] = {}
        for error in self.errors:
            gathered.setdefault(error.file, []).append(str(error))
        self._problems.replace_group(
            "manifest file ",
            [(file, cut("; ".join(said[:MOST_TOLD]), 2000)) for file, said in gathered.items()],
        )

    # --- in a thread ---

    def _look(self, watch: FolderWatch | None, due: bool) -> "_Found | None":
        trouble = self._no_notices
        if watch is not None:
            if not watch.news() and not due:
                return None
            trouble = watch.arm()
        seen = folder.look(self.path, self._book.known, was_file=self._was_file)
        now = self._now()
        manifests = {
            name: parse(entry.data, name, self._node, self._check, seen=now)
            for name, entry in seen.entries.items()
            if entry.data is not None
        }
        return _Found(seen, manifests, trouble)

    def _open(self, stack: contextlib.ExitStack) -> Inotify | None:
        try:
            return stack.enter_context(Inotify())
        except OSError as error:
            self._no_notices = error.strerror or str(error)
            return None


@dataclass(frozen=True, slots=True)
class _Found:
    """The result of a look: what is there, what is in it, and why there are no notices."""

    look: Look
    manifests: Mapping[str, Manifest]
    trouble: str


def _write(memory: Path, by_file: Mapping[str, Sequence[StaticPod]]) -> str:
    """Write the pods down; why that failed. They hold values that not everybody may read."""
    files = {
        name: [{"line": one.line, "pod": one.raw} for one in pods] for name, pods in by_file.items()
    }
    try:
        write_atomic(memory, json.dumps(files), mode=0o600)
    except OSError as error:
        return f"{memory}: cannot be written: {error.strerror or error}"
    return ""


def _recall(memory: Path, node: str) -> dict[str, tuple[StaticPod, ...]]:
    """The pods that were written down, by file; nothing when that cannot be read."""
    try:
        found = json.loads(memory.read_bytes())
        return {
            file: tuple(
                StaticPod(decode(one["pod"]), one["pod"], file, int(one["line"]))
                for one in pods
                if one["pod"]["spec"]["nodeName"] == node
            )
            for file, pods in found.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("%s: cannot be used, static pods are known by their files alone: %s",
                    memory, error)  # fmt: skip
        return {}
