"""The limits of connection tracking, set as kube-proxy sets them.

Outside the host's first network namespace the size of the table is read-only and belongs to the
host; that is told once and is no problem. While the kernel's connection tracking is not loaded
there is nothing to set; it comes with the first rule that needs it.
"""

import errno
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from hostkit.problems import Problems
from netd.sysctls import Setting

log = logging.getLogger(__name__)

_MAX = "net.netfilter.nf_conntrack_max"
_BUCKETS = "nf_conntrack.hashsize"
_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EOPNOTSUPP})


@dataclass(frozen=True, slots=True)
class Limits:
    """kube-proxy's ``--conntrack-*`` flags with its defaults; 0 leaves a setting as it is.

    *max_per_core* and *at_least* are entries in the table, the timeouts are seconds.
    """

    max_per_core: int = 32768
    at_least: int = 131072
    established: int = 24 * 3600
    close_wait: int = 3600

    def entries(self, cores: int) -> int:
        """The size of the table on a host with *cores*, 0 for as it is.

        As kube-proxy has it, *at_least* alone sets nothing.
        """
        return max(self.max_per_core * cores, self.at_least) if self.max_per_core > 0 else 0


@dataclass(frozen=True, slots=True)
class Files:
    """Where the settings are; tests give others."""

    sysctls: Path = Path("/proc/sys")
    hashsize: Path = Path("/sys/module/nf_conntrack/parameters/hashsize")

    def of(self, name: str) -> Path:
        """The file of the setting *name*."""
        return self.hashsize if name == _BUCKETS else self.sysctls / name.replace(".", "/")


@dataclass(frozen=True, slots=True)
class _Wish:
    name: str
    value: int
    only_raise: bool


def _wishes(limits: Limits, cores: int) -> list[_Wish]:
    entries = limits.entries(cores)
    prefix = "net.netfilter.nf_conntrack_tcp_timeout_"
    wishes = [
        # An administrator may have made the table larger, and other programs count on it.
        _Wish(_MAX, entries, only_raise=True),
        # Four entries a bucket, as the kernel itself sizes a table that is full.
        _Wish(_BUCKETS, entries // 4, only_raise=True),
        _Wish(f"{prefix}established", limits.established, only_raise=False),
        _Wish(f"{prefix}close_wait", limits.close_wait, only_raise=False),
    ]
    return [one for one in wishes if one.value > 0]


class LimitKeeper:
    """Sets the limits and says what became of it; *cores* defaults to those netd may run on."""

    def __init__(
        self,
        limits: Limits,
        problems: Problems,
        *,
        cores: int | None = None,
        files: Files | None = None,
    ) -> None:
        self._wishes = _wishes(limits, cores or len(os.sched_getaffinity(0)))
        self._problems = problems
        self._files = files or Files()
        self._told: set[str] = set()

    def ensure(self) -> list[Setting]:
        """Set what is not as wished; every setting that exists, with what was found before."""
        return [one for wish in self._wishes if (one := self._ensure(wish)) is not None]

    def _ensure(self, wish: _Wish) -> Setting | None:
        path, wanted = self._files.of(wish.name), str(wish.value)
        key = f"sysctl/{wish.name}"
        try:
            found = path.read_text(encoding="ascii").strip()
            if not _differs(found, wish):
                self._problems.clear(key)
                return Setting(wish.name, wanted, found)
            path.write_text(wanted, encoding="ascii")
        except FileNotFoundError:
            return None
        except OSError as error:
            return self._failed(wish, path, error)
        self._problems.clear(key)
        log.info("%s set to %s (was %s)", wish.name, wanted, found)
        return Setting(wish.name, wanted, found)

    def _failed(self, wish: _Wish, path: Path, error: OSError) -> Setting:
        why = error.strerror or str(error)
        try:
            found = path.read_text(encoding="ascii").strip()
        except OSError:
            found = "unreadable"
        if error.errno not in _READ_ONLY:
            self._problems.set(
                f"sysctl/{wish.name}",
                f"is {found}, should be {wish.value}, and cannot be set ({why}): set it by hand,"
                " or give --conntrack-max-per-core or the timeout's flag as 0",
            )
        elif wish.name not in self._told:
            self._told.add(wish.name)
            log.info(
                "%s stays %s instead of %d: only the host's own network namespace may set it (%s)",
                wish.name, found, wish.value, why,
            )  # fmt: skip
        return Setting(wish.name, str(wish.value), found, why)


def _differs(found: str, wish: _Wish) -> bool:
    if not found.isdecimal():
        return True
    return int(found) < wish.value if wish.only_raise else int(found) != wish.value


def tcp_be_liberal(root: Path = Path("/proc/sys")) -> bool:
    """Whether the kernel takes out-of-window segments for valid; False when it cannot be read.

    Then dropping packets in state INVALID would be wrong (kubernetes/kubernetes#120412).
    """
    path = root / "net/netfilter/nf_conntrack_tcp_be_liberal"
    try:
        return path.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False
