"""Pure: which API server is used, and when the first of them is used again.

The server in use stays until it fails; then the next one is. Away from the first server, which
is the one that the operator prefers, we go back to it once it has answered probes for
*settle* seconds without a break. A first server that fails soon after a return has to
answer twice as long the next time, so a server that comes and goes is left alone.
"""

from collections.abc import Sequence


class Rotation:
    """The state; times are seconds of one monotonic clock."""

    def __init__(self, servers: Sequence[str], settle: float = 30.0, most: float = 480.0) -> None:
        self._servers = tuple(servers)
        self._settle = self._wanted = settle
        self._most = most
        self._current = 0
        self._good_since: float | None = None
        self._returned: float | None = None

    @property
    def current(self) -> str:
        """The server to use."""
        return self._servers[self._current]

    @property
    def first(self) -> str:
        """The preferred server."""
        return self._servers[0]

    @property
    def away(self) -> bool:
        """Whether another server than the preferred one is in use."""
        return self._current != 0

    def order(self) -> tuple[str, ...]:
        """Each server once, the one in use first."""
        return self._servers[self._current :] + self._servers[: self._current]

    def failed(self, server: str, now: float) -> None:
        """*server* failed; the next one is used if it was in use."""
        if server == self.first:
            self._good_since = None
        if server != self.current:
            return
        if not self._current:
            soon = self._returned is not None and now - self._returned < 20 * self._settle
            self._wanted = min(self._most, self._wanted * 2) if soon else self._settle
        self._current = (self._current + 1) % len(self._servers)

    def probed(self, good: bool, now: float) -> bool:
        """Note whether the preferred server answered a probe; True when we return to it now."""
        if not good:
            self._good_since = None
        elif self._good_since is None:
            self._good_since = now
        if not self.away or self._good_since is None or now - self._good_since < self._wanted:
            return False
        self._current, self._good_since, self._returned = 0, None, now
        return True
