"""The states of a pod's containers as the API wants them (``k8s.io/api/core/v1`` ContainerStatus).

Pure; ``status`` tells the model and its invariants.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nodeagent.pods.container import Container
from nodeagent.pods.known import without_nulls
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import PodSeen, Seen
from nodeagent.pods.plan import UNKNOWN_EXIT, initialized, restarts

FINAL = frozenset({"Succeeded", "Failed"})
"""The phases that are never left."""
SCHEME = "docker://"
"""What precedes ids of containers and images: the name of the runtime."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ContainerNote:
    """What the worker knows of a container beside what Docker shows.

    *waiting* is reason and message while it should run and does not, None for no special reason.
    *ready* and *started* are the probes' verdict on the newest instance, *message* its last words,
    *last_message* those of the one before. *digest* is its image as ``repository@sha256:...``, ""
    when it has none.
    """

    waiting: tuple[str, str] | None = None
    ready: bool = False
    started: bool = False
    message: str = ""
    last_message: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class PodNotes:
    """What the worker knows of a pod.

    *failed* is reason and message when the pod is given up: Evicted, DeadlineExceeded, refused.
    *address* is the pod's, "" while it has none. *start_time* is in the API's form. *terminating*
    says that the pod is being deleted, so nothing of it starts any more.
    """

    containers: Mapping[str, ContainerNote] = field(default_factory=dict)
    failed: tuple[str, str] | None = None
    address: str = ""
    host_address: str = ""
    start_time: str = ""
    terminating: bool = False
    qos: str = ""


def api_time(text: str) -> str:
    """Docker's RFC 3339 time in the API's form, UTC in whole seconds; "" for none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return ""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class View:
    """All that a status is made of. *over*: the pod was given up or has ended; *ending*: nothing
    of it starts any more."""

    pod: Pod
    seen: PodSeen
    notes: PodNotes
    now: str
    previous: Mapping[str, Any]
    before: Mapping[tuple[bool, str], Json]
    conditions: Mapping[str, Json]
    initialized: bool
    over: bool
    ending: bool

    @classmethod
    def of(
        cls, pod: Pod, seen: PodSeen, notes: PodNotes, now: str, previous: Mapping[str, Any]
    ) -> "View":
        """What follows from the arguments of ``status.build``."""
        before = {
            (init, text_of(entry.get("name"))): entry
            for key, init in (("containerStatuses", False), ("initContainerStatuses", True))
            for entry in dicts_of(previous.get(key))
        }
        conditions = {text_of(c.get("type")): c for c in dicts_of(previous.get("conditions"))}
        over = notes.failed is not None or text_of(previous.get("phase")) in FINAL
        ending = over or notes.terminating
        if ending and seen.sandbox is None:
            # The sandbox of a pod that ends goes first.
            done = conditions.get("Initialized", {}).get("status") == "True"
        else:
            done = initialized(pod, seen, seen.sandbox)
        return cls(pod, seen, notes, now, previous, before, conditions,
                   done or not pod.spec.init_containers, over, ending)  # fmt: skip

    @property
    def began(self) -> bool:
        """Whether the pod was more than refused."""
        return self.notes.failed is None or bool(self.before) or bool(self.seen.containers)

    def entries(self) -> tuple[list[Json], list[Json]]:
        """The entries of the init containers and of the others, in the order of the spec."""
        spec = self.pod.spec
        return (
            [self.entry(container, init=True) for container in spec.init_containers],
            [self.entry(container, init=False) for container in spec.containers],
        )

    def entry(self, container: Container, *, init: bool) -> Json:
        """The ContainerStatus of one container."""
        note = self.notes.containers.get(container.name) or ContainerNote()
        before = self.before.get((init, container.name), {})
        # What was created and not started yet has nothing to show.
        shown = [
            one
            for one in self.seen.containers.get(container.name, ())
            if one.running or _ended(one)
        ]
        newest = shown[0] if shown else None
        if newest is not None:
            state, last = self._present(newest, shown[1:], note, before, init=init)
        else:
            state, last = self._absent(note, before, init=init)
        identity = _id(newest) if newest else text_of(before.get("containerID"))
        running = "running" in state
        entry: Json = {
            "name": container.name,
            "state": state,
            "lastState": {"terminated": last} if last else {},
            "ready": running and note.ready and not self.over,
            "restartCount": max(newest.attempt if newest else 0, _count(before)),
            "image": _image(container, newest),
            "imageID": _image_id(newest, note, before),
        }
        if identity:
            entry["containerID"] = identity
        if init:
            entry["ready"] = _exit_code(state) == 0
        else:
            entry["started"] = running and note.started
        return entry

    def _present(
        self, newest: Seen, older: list[Seen], note: ContainerNote, before: Json, *, init: bool
    ) -> tuple[Json, Json]:
        """State and last termination of a container that Docker shows."""
        if newest.running:
            # A line of Docker's list does not tell it, and API servers refuse an empty time.
            started = api_time(newest.started_at or newest.created_at)
            state: Json = {"running": {"startedAt": started} if started else {}}
            return state, self._last(newest, older, note, before)
        known = (_termination(before), _termination(before, "lastState"))
        end = _end_of(newest, note.message, known)
        if note.waiting and self._again(_code(newest), newest, init=init):
            return _waiting(note.waiting), end
        return {"terminated": end}, self._last(newest, older, note, before)

    def _last(self, newest: Seen, older: list[Seen], note: ContainerNote, before: Json) -> Json:
        """How the instance before *newest* ended."""
        known = (_termination(before), _termination(before, "lastState"))
        was = text_of(before.get("containerID"))
        if was and was != _id(newest) and was not in {_id(one) for one in older}:
            # Somebody removed it: what was reported of it is all there is.
            return known[0] or self._lost(before) or known[1]
        if was == _id(newest) and known[1]:
            identity = known[1].get("containerID")
            match = [one for one in older if _id(one) == identity]
            return _end_of(match[0], note.last_message, known) if match else known[1]
        if older and _ended(older[0]):
            return _end_of(older[0], note.last_message, known)
        return {}

    def _absent(self, note: ContainerNote, before: Json, *, init: bool) -> tuple[Json, Json]:
        """State and last termination of a container that Docker does not show."""
        end, last = _termination(before), _termination(before, "lastState")
        if init and self.initialized and _exit_code({"terminated": end}) != 0:
            text = "the container was removed; as the pod was initialized, it had done its work"
            return {"terminated": {"exitCode": 0, "reason": "Completed", "message": text}}, last
        if not end and (lost := self._lost(before)):
            end = lost
        if end:
            code = _exit_code({"terminated": end})
            is_lost = end.get("reason") == "ContainerStatusUnknown"
            if self._again(code, None, init=init) and (note.waiting or is_lost):
                return _waiting(note.waiting or self._reason(init=init)), end
            return {"terminated": end}, last
        if self.ending:
            # The reasons for which it waited are past, and would hide why the pod ended.
            return ({"terminated": last}, {}) if last else ({"waiting": {}}, {})
        return _waiting(note.waiting or self._reason(init=init)), last

    def _reason(self, *, init: bool) -> tuple[str, str]:
        """Why a container waits when nothing special is the cause."""
        if self.pod.spec.init_containers and (init or not self.initialized):
            return "PodInitializing", ""
        return "ContainerCreating", ""

    def _again(self, code: int, instance: Seen | None, *, init: bool) -> bool:
        """Whether a container that ended with *code* will be started again."""
        if self.ending:
            return False
        sandbox = self.seen.sandbox
        made_for = instance.sandbox_id if instance is not None else ""
        if init and (sandbox is None or (made_for and made_for != sandbox.id)):
            # A pod that never starts anything again is over with its first failure.
            return code == 0 or self.pod.spec.restart_policy != "Never"
        return restarts(self.pod, code, init=init)

    def _lost(self, before: Json) -> Json:
        """The termination of one that was last seen running and is gone without a trace."""
        running = dict_of(dict_of(before.get("state")).get("running"))
        if not running:
            return {}
        end = {
            "exitCode": UNKNOWN_EXIT,
            "reason": "ContainerStatusUnknown",
            "message": "the container was removed while it ran, how it ended is not known",
            "startedAt": text_of(running.get("startedAt")),
            "finishedAt": self.now,
            "containerID": text_of(before.get("containerID")),
        }
        return {key: value for key, value in end.items() if value != ""}

    def phase(self, init: list[Json], apps: list[Json]) -> str:
        """The phase; Pending until every container was started once, as the API defines it."""
        before = text_of(self.previous.get("phase"))
        if before in FINAL:
            return before
        # Whoever counts what is free on the node takes the room of a pod that has failed.
        given_up = self.notes.failed is not None and not self._runs()
        if given_up or self._init_failed(init):
            return "Failed"
        ends = [_exit_code(entry["state"]) for entry in apps]
        if ends and all(self._for_good(code) for code in ends):
            return "Failed" if any(ends) else "Succeeded"
        started = apps and all(
            entry["lastState"] or "waiting" not in entry["state"] for entry in apps
        )
        return "Running" if before == "Running" or (started and self.initialized) else "Pending"

    def _runs(self) -> bool:
        """Whether a container of the pod has a process."""
        return any(one.running for group in self.seen.containers.values() for one in group)

    def _for_good(self, code: int) -> bool:
        if code == _RUNS:
            return False
        if self.notes.terminating and self.pod.spec.restart_policy != "Always":
            return True
        return not restarts(self.pod, code)

    def _init_failed(self, init: list[Json]) -> bool:
        if self.initialized or self.pod.spec.restart_policy != "Never":
            return False
        return any(_exit_code(entry["state"]) not in {0, _RUNS} for entry in init)


_RUNS = -1


def _exit_code(state: Mapping[str, Any]) -> int:
    """The exit code in a ContainerState; _RUNS when it has not ended."""
    code = dict_of(state.get("terminated")).get("exitCode")
    return code if isinstance(code, int) else _RUNS


def _ended(one: Seen) -> bool:
    return one.state == "exited" or (one.state == "created" and bool(one.error))


def _code(one: Seen) -> int:
    # Docker leaves 0 behind for some starts that failed; 128 is dockershim's code for them.
    return (one.exit_code or 128) if one.state == "created" else one.exit_code


def _end_of(one: Seen, message: str, known: Iterable[Json]) -> Json:
    """The ContainerStateTerminated of an instance; what was *known* of it keeps its message."""
    if one.state == "created":
        reason = "ContainerCannotRun"
    elif one.oom_killed:
        reason = "OOMKilled"
    else:
        reason = "Error" if one.exit_code else "Completed"
    told = (text_of(end.get("message")) for end in known if end.get("containerID") == _id(one))
    end = {
        "exitCode": _code(one),
        "reason": reason,
        "message": message or one.error or next(told, ""),
        "startedAt": api_time(one.started_at or one.created_at),
        "finishedAt": api_time(one.finished_at or one.created_at),
        "containerID": _id(one),
    }
    return {key: value for key, value in end.items() if value != ""}


def _waiting(why: tuple[str, str]) -> Json:
    reason, message = why
    return {"waiting": {"reason": reason} | ({"message": message} if message else {})}


def _image(container: Container, newest: Seen | None) -> str:
    if newest is not None and newest.image and not newest.image.startswith("sha256:"):
        return newest.image
    return container.image


def _image_id(newest: Seen | None, note: ContainerNote, before: Json) -> str:
    """``docker-pullable://repository@digest``, or by the image's own id where it has no digest."""
    known = text_of(before.get("imageID"))
    if newest is None:
        return known
    if note.digest:
        return f"docker-pullable://{note.digest}"
    if known and before.get("containerID") == _id(newest):
        return known
    return f"{SCHEME}{newest.image_id}" if newest.image_id else ""


def _id(one: Seen) -> str:
    return f"{SCHEME}{one.id}"


def _termination(entry: Mapping[str, Any], key: str = "state") -> Json:
    found = dict_of(dict_of(entry.get(key)).get("terminated"))
    return without_nulls(found) if isinstance(found.get("exitCode"), int) else {}


def _count(entry: Mapping[str, Any]) -> int:
    count = entry.get("restartCount")
    return count if isinstance(count, int) else 0


def dict_of(value: Any) -> Json:
    """*value* where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def dicts_of(value: Any) -> list[Json]:
    """The objects in *value*, where that is a list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def text_of(value: Any) -> str:
    """*value* where it is a text, else ``""``: an API object may hold anything."""
    return value if isinstance(value, str) else ""
