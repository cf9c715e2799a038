"""Which events are worth sending: repeats counted, similar ones combined, floods held back. Pure.

Bounds and times are client-go's (``tools/record``): ten different messages of one reason in ten
minutes, then one event for all; 25 events of one object at once, then one in five minutes.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from hostkit.errors import cut

DISTINCT = 10
WINDOW = 600.0
REMEMBERED = 1000
"""Events, groups and objects remembered; those not heard of for longest are forgotten."""
LONGEST = 1024
"""Characters of a message, the limit of ``events.k8s.io/v1`` for its note."""

# Fractions add up to a little less than they should.
_ONE = 1 - 1e-6
T = TypeVar("T")
Subject = Mapping[str, str]
"""An ObjectReference (``k8s.io/api/core/v1``)."""


@dataclass(slots=True)
class Event:
    """One event: *first* and *last* are times in the API's form, *since* a monotonic time.

    *name* is that of its object, *made* says that the API server has it.
    """

    subject: Subject
    kind: str
    reason: str
    message: str
    first: str
    last: str
    since: float
    name: str = ""
    count: int = 1
    made: bool = False
    queued: bool = False


@dataclass(slots=True)
class Bucket:
    """Tokens up to *burst*, one more every *period* seconds."""

    burst: float
    period: float
    tokens: float = 0.0
    filled: float = 0.0

    def wait(self, now: float) -> float:
        """Seconds until there is a token."""
        self._fill(now)
        return 0.0 if self.tokens >= _ONE else (1 - self.tokens) * self.period

    def take(self, now: float) -> bool:
        """Take a token if there is one."""
        self._fill(now)
        if self.tokens < _ONE:
            return False
        self.tokens = max(0.0, self.tokens - 1)
        return True

    def _fill(self, now: float) -> None:
        self.tokens = min(self.burst, self.tokens + max(0.0, now - self.filled) / self.period)
        self.filled = now


class _Recent(Generic[T]):
    """Values by key, as many as are remembered."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable) -> T | None:
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: Hashable, value: T) -> T:
        self._values[key] = value
        if len(self._values) > self._most:
            self._values.popitem(last=False)
        return value


@dataclass(slots=True)
class _Group:
    """Different messages of one reason; *heard* is when the last one came."""

    heard: float
    messages: set[str] = field(default_factory=set)


class EventBook:
    """The events of late; times are seconds of one monotonic clock."""

    def __init__(
        self,
        *,
        burst: int = 25,
        refill: float = 300.0,
        remembered: int = REMEMBERED,
        suffix: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self._burst = burst
        self._refill = refill
        self._suffix = suffix
        self._events: _Recent[Event] = _Recent(remembered)
        self._groups: _Recent[_Group] = _Recent(remembered)
        self._buckets: _Recent[Bucket] = _Recent(remembered)

    def record(
        self, subject: Subject, kind: str, reason: str, message: str, *, now: float, stamp: str
    ) -> Event | None:
        """The event to be sent, new or with a higher count; None when its object has too many.

        *stamp* is now in the API's form.
        """
        message = cut(message, LONGEST - 40)
        group = (subject.get("uid"), subject.get("fieldPath"), subject.get("name"), kind, reason)
        combined = self._is_flood(group, message, now)
        if not self._bucket(subject, now).take(now):
            return None
        key = group if combined else (*group, message)
        shown = f"(one of several similar events) {message}" if combined else message
        event = self._events.get(key)
        if event is None:
            fresh = Event(subject, kind, reason, shown, stamp, stamp, now)
            fresh.name = self.name_for(subject)
            return self._events.put(key, fresh)
        event.count += 1
        event.message, event.last = shown, stamp
        if not event.queued:
            event.since = now
        return event

    def name_for(self, subject: Subject) -> str:
        """A name for a new event: ``<object>.<16 hexadecimal digits>``."""
        suffix = f".{self._suffix()}"
        # A DNS subdomain (RFC 1123), as the object's name is, which may be that long already.
        return subject.get("name", "")[: 253 - len(suffix)].rstrip("-.") + suffix

    def _is_flood(self, key: Hashable, message: str, now: float) -> bool:
        group = self._groups.get(key)
        if group is None or now - group.heard > WINDOW:
            group = self._groups.put(key, _Group(now))
        group.heard = now
        if message in group.messages:
            return False
        if len(group.messages) >= DISTINCT:
            return True
        group.messages.add(message)
        return False

    def _bucket(self, subject: Subject, now: float) -> Bucket:
        key = (subject.get("kind"), subject.get("uid"), subject.get("name"))
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = Bucket(self._burst, self._refill, float(self._burst), now)
            self._buckets.put(key, bucket)
        return bucket


def document(event: Event, component: str, host: str) -> dict[str, Any]:
    """The Event object (``k8s.io/api/core/v1``)."""
    namespace = event.subject.get("namespace") or "default"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event.name, "namespace": namespace},
        "involvedObject": dict(event.subject),
        "reason": event.reason,
        "message": event.message,
        "type": event.kind,
        "source": {"component": component, "host": host},
        "reportingComponent": component,
        "reportingInstance": host,
        "firstTimestamp": event.first,
        "lastTimestamp": event.last,
        "count": event.count,
    }
