"""What a pod needs next: a value, from what is wanted, what is there and what is remembered.

Invariants, for every plan:

* a container is started only in a running sandbox, and only when no instance of it runs;
* init containers run one after the other, the others after the last one has succeeded; a new
  sandbox has all of them run again;
* a new instance has a higher attempt number than any that is known to have run;
* what an operation is busy with is left alone: the look after its end decides;
* a sandbox goes only after the containers that live in it.

Carrying out any part of a plan, in any order the parts allow, leads to a state from which the
next plan goes on to the same end; a lost plan is never missed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from nodeagent.pods.container import Container
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import SANDBOX, PodSeen, Seen

Mode = Literal["run", "stop", "remove"]
"""``stop`` ends all processes and keeps dead containers for their logs, ``remove`` does not."""

UNKNOWN_EXIT = 137
"""The exit code of a container that ran and is gone without a trace, as after a SIGKILL."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a running instance has to end: event reason, message, and its own grace or None."""

    reason: str
    message: str
    grace: int | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What is remembered of a pod beside what Docker shows.

    *ran* maps the containers that are known to have run to their highest attempt, the sandbox
    under SANDBOX; *ended* to the exit code of those whose end was seen. *waits* are monotonic
    times before which a container is not started again. *condemned* maps running instances by id
    to why they must end. *busy* are the names with an operation under way. *keep_dead* is how
    many dead instances of each container stay for ``logs --previous``.
    """

    ran: Mapping[str, int] = field(default_factory=dict)
    ended: Mapping[str, int] = field(default_factory=dict)
    waits: Mapping[str, float] = field(default_factory=dict)
    condemned: Mapping[str, Verdict] = field(default_factory=dict)
    busy: frozenset[str] = frozenset()
    keep_dead: int = 1


@dataclass(frozen=True, slots=True)
class Kill:
    """End a running instance; *grace* in seconds, None for the pod's own."""

    seen: Seen
    reason: str
    message: str
    grace: int | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Start a container, or the sandbox when *name* is SANDBOX.

    *replaces* are instances that were created and never started.
    """

    name: str
    attempt: int
    replaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The next actions: all of them may be begun at once.

    *removes* are ids. *wake* is the monotonic time at which waiting for a back-off ends.
    *finished* says that no container runs and none will run again, *gone* that nothing is left.
    """

    kills: tuple[Kill, ...] = ()
    starts: tuple[Start, ...] = ()
    removes: tuple[str, ...] = ()
    wake: float | None = None
    finished: bool = False
    gone: bool = False


def plan(pod: Pod, seen: PodSeen, known: Known, now: float, mode: Mode = "run") -> Plan:
    """What *pod* needs; *now* is monotonic."""
    if mode != "run":
        return _wind_down(seen, known, keep=mode == "stop")
    if finished(pod, seen, known):
        return _wind_down(seen, known, keep=True)
    sandbox = seen.sandbox
    if sandbox is None or not sandbox.running:
        return _new_sandbox(seen, known, now)
    names = _names(pod)
    strays = [one for one in seen.everything if one.running and _stray(one, seen, sandbox, names)]
    kills = [
        Kill(one, "Killing", f"container {one.name} is not one of the pod as it is now", 0)
        for one in strays
        if one.name not in known.busy
    ]
    if strays:
        return Plan(kills=tuple(kills), removes=_litter(pod, seen, known))
    return _inside(pod, seen, known, now, sandbox)


def _names(pod: Pod) -> frozenset[str]:
    return frozenset(c.name for c in (*pod.spec.containers, *pod.spec.init_containers))


def _stray(one: Seen, seen: PodSeen, sandbox: Seen, names: frozenset[str]) -> bool:
    """Whether a running instance is not of the spec or the sandbox in use, or not the newest."""
    if one.name == SANDBOX:
        return one.id != sandbox.id
    if one.name not in names:
        return True
    newest = seen.newest(one.name)
    if newest is not None and newest.id != one.id:
        return True
    return bool(one.sandbox_id) and one.sandbox_id != sandbox.id


def _wind_down(seen: PodSeen, known: Known, *, keep: bool) -> Plan:
    """End all containers, then the sandbox; then remove what is not kept."""
    alive = [one for group in seen.containers.values() for one in group if one.running]
    kills = tuple(
        Kill(one, "Killing", f"stopping container {one.name}")
        for one in alive
        if one.name not in known.busy
    )
    if alive or known.busy - {SANDBOX}:
        return Plan(kills=kills)
    if SANDBOX in known.busy:
        return Plan(finished=True)
    # The sandbox has nothing to end in good order.
    removes = [one.id for one in seen.sandboxes]
    if not keep:
        removes += [one.id for group in seen.containers.values() for one in group]
    return Plan(removes=tuple(removes), finished=True, gone=not seen.everything)


def _new_sandbox(seen: PodSeen, known: Known, now: float) -> Plan:
    """Clear away what lived in the sandbox that is gone, then start another one."""
    alive = [one for one in seen.everything if one.running]
    if alive:
        text = "the pod's sandbox is gone: container {} is started again in a new one"
        kills = (
            Kill(one, "SandboxChanged", text.format(one.name))
            for one in alive
            if one.name not in known.busy
        )
        return Plan(kills=tuple(kills))
    if known.busy:
        return Plan()
    if (until := known.waits.get(SANDBOX, 0.0)) > now:
        return Plan(wake=until)
    newest = seen.sandbox
    if newest is not None and newest.state == "created" and not newest.error:
        attempt = newest.attempt
    else:
        attempt = _next_attempt(SANDBOX, newest, known)
    return Plan(starts=(Start(SANDBOX, attempt, tuple(one.id for one in seen.sandboxes)),))


def _inside(pod: Pod, seen: PodSeen, known: Known, now: float, sandbox: Seen) -> Plan:
    """What the containers need while the sandbox runs."""
    kills, starts, wakes = [], [], []
    for container in _due(pod, seen, known, sandbox):
        name = container.name
        if name in known.busy:
            continue
        newest = seen.newest(name)
        if newest is not None and newest.running:
            if verdict := _must_end(container, newest, known):
                kills.append(Kill(newest, verdict.reason, verdict.message, verdict.grace))
            continue
        if not _wants_start(pod, newest, name, known, sandbox):
            continue
        until = known.waits.get(name, 0.0)
        if until > now:
            wakes.append(until)
            continue
        starts.append(_start_of(name, newest, known))
    return Plan(
        kills=tuple(kills),
        starts=tuple(starts),
        removes=_litter(pod, seen, known),
        wake=min(wakes) if wakes else None,
    )


def _due(pod: Pod, seen: PodSeen, known: Known, sandbox: Seen) -> tuple[Container, ...]:
    """The containers to look at: all of the spec, or the init container whose turn it is."""
    if initialized(pod, seen, sandbox):
        return pod.spec.containers
    for container in pod.spec.init_containers:
        newest = seen.newest(container.name)
        done = newest is not None and _of(newest, sandbox) and _succeeded(newest)
        if not done or container.name in known.busy:
            return (container,)
    return pod.spec.containers


def initialized(pod: Pod, seen: PodSeen, sandbox: Seen | None) -> bool:
    """Whether the init containers have done their work for this sandbox.

    Any other container that was made for it proves that, also when they were removed since.
    """
    if not pod.spec.init_containers:
        return True
    if sandbox is None:
        return False
    if any(
        _of(one, sandbox)
        for container in pod.spec.containers
        for one in seen.containers.get(container.name, ())
    ):
        return True
    last = seen.newest(pod.spec.init_containers[-1].name)
    return last is not None and _of(last, sandbox) and _succeeded(last)


def _of(one: Seen, sandbox: Seen) -> bool:
    return not one.sandbox_id or one.sandbox_id == sandbox.id


def _succeeded(one: Seen) -> bool:
    return one.state == "exited" and one.exit_code == 0


def _must_end(container: Container, newest: Seen, known: Known) -> Verdict | None:
    if verdict := known.condemned.get(newest.id):
        return verdict
    if newest.hash and newest.hash != container.hash:
        return Verdict("Killing", f"container {container.name} definition changed: image")
    return None


def _wants_start(pod: Pod, newest: Seen | None, name: str, known: Known, sandbox: Seen) -> bool:
    """Whether a container that does not run has to."""
    if newest is not None and newest.state == "created" and not newest.error:
        return True
    code = _exit_code(newest, name, known)
    if code is None:
        return True
    init = any(container.name == name for container in pod.spec.init_containers)
    if init and newest is not None and not _of(newest, sandbox):
        return True
    return restarts(pod, code, init=init)


def restarts(pod: Pod, code: int, *, init: bool = False) -> bool:
    """Whether the restart policy has a container run again that ended with *code*."""
    policy = pod.spec.restart_policy
    if init and code == 0:
        return False
    return policy == "Always" or (policy == "OnFailure" and code != 0)


def _exit_code(newest: Seen | None, name: str, known: Known) -> int | None:
    """With which code a container that does not run ended; None when it never ran."""
    if newest is not None:
        if newest.state == "created" and newest.error:
            return newest.exit_code or 128
        if newest.state == "exited":
            return newest.exit_code
        return None
    if name in known.ran:
        return known.ended.get(name, UNKNOWN_EXIT)
    return None


def _start_of(name: str, newest: Seen | None, known: Known) -> Start:
    if newest is not None and newest.state == "created" and not newest.error:
        return Start(name, newest.attempt, (newest.id,))
    return Start(name, _next_attempt(name, newest, known))


def _next_attempt(name: str, newest: Seen | None, known: Known) -> int:
    highest = max(-1 if newest is None else newest.attempt, known.ran.get(name, -1))
    return highest + 1


def finished(pod: Pod, seen: PodSeen, known: Known) -> bool:
    """Whether no container of the pod runs and none will run again."""
    if any(one.running for group in seen.containers.values() for one in group):
        return False
    if known.busy - {SANDBOX}:
        return False
    if pod.spec.restart_policy == "Always":
        return False
    if pod.spec.restart_policy == "Never" and any(_init_failures(pod, seen, known)):
        return True
    codes = [_exit_code(seen.newest(c.name), c.name, known) for c in pod.spec.containers]
    return all(code is not None and not restarts(pod, code) for code in codes)


def _init_failures(pod: Pod, seen: PodSeen, known: Known) -> Iterator[bool]:
    started = any(c.name in known.ran or seen.newest(c.name) for c in pod.spec.containers)
    for container in pod.spec.init_containers:
        code = _exit_code(seen.newest(container.name), container.name, known)
        # One that is gone without a trace did its work, if others started after it.
        yield bool(code) and not started


def _litter(pod: Pod, seen: PodSeen, known: Known) -> tuple[str, ...]:
    """Dead instances that nobody needs: old ones, and those of names that are not in the spec."""
    names = _names(pod)
    found: list[str] = [one.id for one in seen.sandboxes[1:] if not one.running]
    for name, group in seen.containers.items():
        if name in known.busy:
            continue
        dead = [one.id for one in group if not one.running]
        # The newest instance is what the next decision rests on.
        kept = max(known.keep_dead, 0 if group[0].running else 1) if name in names else 0
        found += dead[kept:]
    return tuple(found)
