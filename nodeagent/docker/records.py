"""The observer's records: what is known of each container, and as of when.

A record carries the mark of the question that it answers, and so does the knowledge that a
container is gone; marks ascend. An answer never replaces one to a later question.
"""

from collections import OrderedDict
from collections.abc import Mapping

from nodeagent.pods.observed import PodSeen, Seen

MOST_GONE = 4096
"""Removed containers that are remembered; answers about one come within minutes of its end."""


class Records:
    """Containers by id and by pod; ``changed`` gathers the pods that differ since it was emptied.

    A pod whose containers are replaced by equal ones is not changed.
    """

    def __init__(self) -> None:
        self._mark = 0
        self._seen: dict[str, Seen] = {}
        self._marks: dict[str, int] = {}
        self._ids: dict[str, set[str]] = {}
        self._pods: dict[str, PodSeen] = {}
        self._gone: OrderedDict[str, int] = OrderedDict()
        self.changed: set[str] = set()

    @property
    def ids(self) -> tuple[str, ...]:
        """All containers."""
        return tuple(self._seen)

    @property
    def pods(self) -> Mapping[str, PodSeen]:
        """Pods with at least one container."""
        return self._pods

    def get(self, container: str) -> Seen | None:
        """The record of a container."""
        return self._seen.get(container)

    def mark(self) -> int:
        """The mark of a question that is asked now."""
        self._mark += 1
        return self._mark

    def put(self, seen: Seen, mark: int) -> bool:
        """Take the answer to the question with *mark*; False when it came too late."""
        if mark < self._marks.get(seen.id, 0) or mark <= self._gone.get(seen.id, 0):
            return False
        self._gone.pop(seen.id, None)
        old = self._seen.get(seen.id)
        self._marks[seen.id] = mark
        if old != seen:
            self._seen[seen.id] = seen
            self._ids.setdefault(seen.uid, set()).add(seen.id)
            self._rebuild(seen.uid)
        return True

    def drop(self, container: str, mark: int = 0) -> bool:
        """The question with *mark* found the container gone; False when that came too late.

        Without a mark it is gone as of now.
        """
        mark = mark or self._mark
        if mark < self._marks.get(container, 0):
            return False
        self._gone[container] = max(mark, self._gone.get(container, 0))
        while len(self._gone) > MOST_GONE:
            self._gone.popitem(last=False)
        self._marks.pop(container, None)
        seen = self._seen.pop(container, None)
        if seen is not None:
            self._ids[seen.uid].discard(container)
            self._rebuild(seen.uid)
        return True

    def retain(self, mark: int, listed: set[str], uid: str = "") -> None:
        """Drop what the list with *mark* lacks and was not seen later; with *uid* of that pod."""
        among = self._ids.get(uid, set()) if uid else self._seen
        for one in [one for one in among if one not in listed]:
            self.drop(one, mark)

    def _rebuild(self, uid: str) -> None:
        ids = self._ids.get(uid)
        if ids:
            self._pods[uid] = PodSeen.of(uid, (self._seen[one] for one in ids))
        else:
            self._ids.pop(uid, None)
            self._pods.pop(uid, None)
        self.changed.add(uid)
