"""What was measured of pods, as rows of the table with their aims."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench.result import Aim, Result, Samples

BESIDE_DOCKER = Aim("<=", 1.3)
"""All pods Ready, by Docker's own time for their containers at the best parallelism."""

READY_AIMS = {20: Aim("<=", 5.0), 50: Aim("<=", 12.0)}
GONE_AIMS = {20: Aim("<=", 6.0)}
"""Seconds, by pods at once."""
ONE_READY, ONE_GONE, NO_TAIL = Aim("<=", 0.7), Aim("<=", 1.8), Aim("<=", 2.5)
RUNS_AGAIN, READY_AGAIN = Aim("<=", 0.7), Aim("<=", 1.0)
RSS = {0: Aim("<=", 70.0), 50: Aim("<=", 80.0)}
"""MiB, by pods that run."""
CPU = {50: Aim("<=", 1.5)}
"""Seconds a minute, by pods that run."""

KUBELET = "kubelet 1.20, measured on this kind of machine"
_KUBELET_READY = {20: "14.0, 7.4 with QPS 50", 50: "43, 17.7 with QPS 50"}
_KUBELET_GONE = {20: "51, 48 with QPS 50"}
_KUBELET_ONE_GONE = "median 7.4, max 8.2; 4.8 and 37.8 with QPS 50"
_KUBELET_IDLE = {0: ("89 MiB", "0.8 s"), 50: ("106 MiB", "8.4 s")}

_DOCKER = "docker"


@dataclass(frozen=True, slots=True)
class Pairs:
    """Seconds that something took with nodeagent, and with Docker alone in turns with it."""

    agent: Samples
    docker: Samples


@dataclass(frozen=True, slots=True)
class Burst:
    """*count* pods at once: seconds until the last of them, in each round.

    *slowest* is the longest that a single one took, counted from its own request. *docker* are
    the seconds by parallelism. *cpu* is nodeagent's processor time in seconds for each pod.
    """

    count: int
    agent: Samples
    slowest: float
    docker: Mapping[int, Samples]
    cpu: float

    @property
    def best(self) -> tuple[int, float]:
        """The parallelism with which Docker is fastest, and its median."""
        parallel = min(self.docker, key=lambda one: self.docker[one].median)
        return parallel, self.docker[parallel].median


@dataclass(frozen=True, slots=True)
class Rest:
    """*count* pods at rest: memory in MiB, processor time in seconds a minute, and dockerd's;
    without processor time when it was not measured."""

    count: int
    rss: float
    dockerd_rss: float
    cpu: float | None = None
    dockerd_cpu: float = 0.0


def created(pairs: Pairs) -> Iterator[Result]:
    """Of one pod at a time until it is Ready."""
    note = f"{KUBELET}: median 1.56, max 2.0; 0.88 and 1.7 with QPS 50"
    yield from _one("create one pod: Ready", pairs, ONE_READY, None, note)


def deleted(kind: str, pairs: Pairs) -> Iterator[Result]:
    """Of one pod of *kind* at a time until it is gone."""
    note = f"{KUBELET}: {_KUBELET_ONE_GONE}"
    yield from _one(f"delete one pod that {kind}: gone", pairs, ONE_GONE, NO_TAIL, note)


def healed(running: Pairs, ready: Samples) -> Iterator[Result]:
    """Of one container at a time that is taken away."""
    note = f"{KUBELET}: 0.98, 0.92 with QPS 50"
    yield from _one("docker rm -f: running again", running, RUNS_AGAIN, None, note)
    note = f"{KUBELET}: 1.83, 1.82 with QPS 50"
    pairs = Pairs(ready, running.docker)
    yield from _one("docker rm -f: Ready again", pairs, READY_AGAIN, None, note)


def _one(
    label: str, pairs: Pairs, median: Aim, most: Aim | None, note: str
) -> Iterator[Result]:  # fmt: skip
    """Median and largest of one pod at a time."""
    agent, docker = pairs.agent, pairs.docker
    note = f"{agent.spread()}; {note}"
    yield Result(
        f"{label}, median", agent.median, "s", docker.median, _DOCKER, median, note=note
    )  # fmt: skip
    yield Result(f"{label}, max", agent.values[-1], "s", docker.values[-1], _DOCKER, most)


def all_ready(burst: Burst) -> Iterator[Result]:
    """Of pods created at once."""
    count, (parallel, best) = burst.count, burst.best
    against = f"{_DOCKER}, {parallel} at a time"
    label = f"create {count} pods: all Ready"
    note = f"{burst.agent.spread()}; slowest pod {burst.slowest:.2f} s"
    if count in _KUBELET_READY:
        note += f"; {KUBELET}: {_KUBELET_READY[count]}"
    agent = burst.agent.median
    yield Result(label, agent, "s", best, against, READY_AIMS.get(count), note=note)
    told = ", ".join(f"{n}: {times.median:.2f}" for n, times in sorted(burst.docker.items()))
    yield Result(
        f"{label}, beside Docker", agent, "s", best, against, BESIDE_DOCKER, aim_on_ratio=True,
        note=f"{_DOCKER} by parallelism: {told} s",
    )  # fmt: skip
    yield Result(f"create {count} pods: nodeagent's CPU for each", burst.cpu * 1e3, "ms")


def all_gone(burst: Burst) -> Iterator[Result]:
    """Of pods deleted at once."""
    count, (parallel, best) = burst.count, burst.best
    note = f"{burst.agent.spread()}; slowest pod {burst.slowest:.2f} s"
    if count in _KUBELET_GONE:
        note += f"; {KUBELET}: {_KUBELET_GONE[count]}"
    yield Result(
        f"delete {count} pods: all gone", burst.agent.median, "s", best,
        f"{_DOCKER}, {parallel} at a time", GONE_AIMS.get(count), note=note,
    )  # fmt: skip
    yield Result(f"delete {count} pods: nodeagent's CPU for each", burst.cpu * 1e3, "ms")


def at_rest(rest: Rest) -> Iterator[Result]:
    """Of pods at rest."""
    count = rest.count
    memory, cpu = _KUBELET_IDLE.get(count, ("", ""))
    known = f"{KUBELET}: " if memory else ""
    label = f"{count} pods" if count else "no pods"
    yield Result(
        f"{label}: RSS", rest.rss, "MiB", rest.dockerd_rss, "dockerd", RSS.get(count),
        note=known + memory,
    )  # fmt: skip
    if rest.cpu is not None:
        yield Result(
            f"{label}: CPU a minute", rest.cpu, "s", rest.dockerd_cpu, "dockerd",
            CPU.get(count), note=known + cpu,
        )  # fmt: skip
