"""Pure: which API server is used, and when the first of them is used again.

The server in use stays until it fails; then the next one is. Away from the first server, which
is the one that the operator prefers, we go back to it once it has answered probes for
*settle* seconds without a break. A first server that fails soon after a return has to
answer twice as long the next time, so a server that comes and goes is left alone.

A server that failed by silence costs seconds each time it is tried. So it is tried last for
*remember* seconds, or until it answers, and it does not come into use while there is another.
"""

from collections.abc import Sequence


class Rotation:
    """The state; times are seconds of one monotonic clock."""

    def __init__(
        self,
        servers: Sequence[str],
        settle: float = 30.0,
        most: float = 480.0,
        remember: float = 30.0,
    ) -> None:
        self._servers = tuple(servers)
        self._settle = self._wanted = settle
        self._most = most
        self._current = 0
        self._good_since: float | None = None
        self._returned: float | None = None
        self._remember = remember
        self._silent: dict[str, float] = {}

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

    def order(self, now: float) -> tuple[str, ...]:
        """Each server once, the one in use first and those last that were silent lately."""
        others = self._servers[self._current + 1 :] + self._servers[: self._current]
        return self.current, *sorted(others, key=lambda one: self._is_silent(one, now))

    def answered(self, server: str) -> None:
        """*server* is not silent."""
        self._silent.pop(server, None)

    def failed(self, server: str, now: float, *, silent: bool = False) -> None:
        """*server* failed, maybe by silence; the next one is used if it was in use.

        If only the others are silent it stays in use.
        """
        if server == self.first:
            self._good_since = None
        if silent:
            self._silent[server] = now
        else:
            self._silent.pop(server, None)
        if server != self.current:
            return
        following = self.order(now)[1:]
        if not following or (self._is_silent(following[0], now) and not silent):
            return
        if not self._current:
            soon = self._returned is not None and now - self._returned < 20 * self._settle
            self._wanted = min(self._most, self._wanted * 2) if soon else self._settle
        self._current = self._servers.index(following[0])

    def probed(self, good: bool, now: float) -> bool:
        """Note whether the preferred server answered a probe; True when we return to it now."""
        if not good:
            self._good_since = None
        else:
            self._silent.pop(self.first, None)
            if self._good_since is None:
                self._good_since = now
        if not self.away or self._good_since is None or now - self._good_since < self._wanted:
            return False
        self._current, self._good_since, self._returned = 0, None, now
        return True

    def _is_silent(self, server: str, now: float) -> bool:
        since = self._silent.get(server)
        return since is not None and now - since < self._remember
