"""``python -m bench.pods``: nodeagent's pods beside bare calls to Docker, in one run.

One pod at a time and Docker alone take turns; of bursts each round has one of pods and one of
Docker's for each parallelism. An interrupt ends the measurement at once; further ones are ignored
while what was made is removed.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console

from bench import pods_figures as figures
from bench.entry import end_on_signals, unfit
from bench.pods_api import GONE, PODS, READY, Watch, ready_with
from bench.pods_docker import Pair, Starts
from bench.pods_figures import Burst, Pairs, Rest
from bench.pods_world import NODE, Ground, ground
from bench.result import BenchError, Result, Samples, show

EXIT_OK, EXIT_MISSED, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 2, 130

TOOLS = ("dockerd", "etcd", "ip", "nsenter", "openssl", "setpriv")

PARALLEL = (1, 2, 4, 8)
"""How many of Docker's calls run at once in its own bursts."""
IGNORES, OBEYS = "ignores SIGTERM", "obeys SIGTERM"
KINDS = {
    # It is process 1 of its PID namespace, where SIGTERM does nothing by itself.
    IGNORES: ["sleep", "100000"],
    OBEYS: ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 100000 & wait $!; done"],
}

_IMAGE = "barenode/busybox:lab"
_DEADLINE = 120.0
_PAUSE, _SETTLE = 0.3, 2.0
_CLEARED = 3.0
"""Seconds between two bursts: the kernel takes the network namespaces of the one before apart
when their last process has gone, and no new one is made meanwhile."""
_AT_REST = 15.0
"""Seconds from the last change until memory and processor time are those at rest."""


class Bench:
    """The measurements on *made*, of what *watch* and *starts* see."""

    def __init__(self, made: Ground, watch: Watch, starts: Starts) -> None:
        self._made = made
        self._watch = watch
        self._starts = starts
        self._numbers = itertools.count(1)

    # --- one at a time ---

    def warm_up(self) -> None:
        """Start and delete pods of each kind; Docker learns from them what it is to make."""
        for kind in KINDS:
            for _ in range(2):
                name = self.create([kind])[0]
                self._watch.wait(READY, [name], _deadline())
                self._made.docker.learn(kind, name)
                self.delete([name])
                self._watch.wait(GONE, [name], _deadline())
            self._made.docker.down(self._made.docker.up(kind))

    def one(self, kind: str, count: int) -> tuple[Pairs, Pairs]:
        """Creation and deletion of one pod, *count* times."""
        docker, watch = self._made.docker, self._watch
        up: list[float] = []
        down: list[float] = []
        docker_up: list[float] = []
        docker_down: list[float] = []
        for _ in range(count):
            begin = time.monotonic()
            name = self.create([kind])[0]
            up.append(watch.wait(READY, [name], _deadline())[0] - begin)
            time.sleep(_PAUSE)
            begin = time.monotonic()
            self.delete([name])
            down.append(watch.wait(GONE, [name], _deadline())[0] - begin)
            time.sleep(_PAUSE)
            taken, pair = _timed(lambda: docker.up(kind))
            docker_up.append(taken)
            time.sleep(_PAUSE)
            docker_down.append(_timed(lambda p=pair: docker.down(p))[0])  # type: ignore[misc]
            time.sleep(_PAUSE)
        return (
            Pairs(Samples.of(up), Samples.of(docker_up)),
            Pairs(Samples.of(down), Samples.of(docker_down)),
        )

    def heal(self, count: int) -> tuple[Pairs, Samples]:
        """``docker rm -f`` of the container of *count* pods, one after the other: until it runs
        again, and until the pod is Ready with it."""
        docker = self._made.docker
        names = self.create([IGNORES] * count)
        self._watch.wait(READY, names, _deadline())
        running: list[float] = []
        ready: list[float] = []
        alone: list[float] = []
        for name in names:
            time.sleep(_PAUSE)
            former = docker.containers(name).app
            begin = time.monotonic()
            docker.remove(former)
            at, fresh = self._starts.after(name, former, _deadline())
            running.append(at - begin)
            ready.append(self._watch.wait(ready_with(fresh), [name], _deadline())[0] - begin)
            time.sleep(_PAUSE)
            alone.append(self._docker_heals())
        self.delete(names)
        self._watch.wait(GONE, names, _deadline())
        return Pairs(Samples.of(running), Samples.of(alone)), Samples.of(ready)

    def _docker_heals(self) -> float:
        docker = self._made.docker
        pair = docker.up(IGNORES)

        def again() -> str:
            docker.remove(pair.app)
            return docker.app(IGNORES, pair.sandbox)

        taken, fresh = _timed(again)
        docker.down(Pair(pair.sandbox, fresh))
        return taken

    # --- many at once ---

    def bursts(self, count: int, rounds: int, rest: Callable[[], None]) -> tuple[Burst, Burst]:
        """*count* pods created at once and deleted at once; *rest* is called while the last
        ones run."""
        docker = self._made.docker
        up, down = _Rounds(count), _Rounds(count)
        for number in range(rounds):
            time.sleep(_CLEARED)
            names = self._burst_up(up, count)
            if number == rounds - 1:
                rest()
            self._burst_down(down, names)
            for parallel in PARALLEL:
                time.sleep(_CLEARED)
                many = [IGNORES] * count
                taken, pairs = _timed(lambda p=parallel, m=many: docker.together(docker.up, m, p))  # type: ignore[misc]
                up.docker.setdefault(parallel, []).append(taken)
                time.sleep(_SETTLE)
                taken, _ = _timed(lambda p=parallel, m=pairs: docker.together(docker.down, m, p))  # type: ignore[misc]
                down.docker.setdefault(parallel, []).append(taken)
        return up.burst(), down.burst()

    def _burst_up(self, rounds: "_Rounds", count: int) -> list[str]:
        before = self._made.used()[0]
        sent: list[float] = []
        names = self.create([IGNORES] * count, sent)
        rounds.take(sent, self._watch.wait(READY, names, _deadline()))
        # What belongs to the pods and is done after they are Ready: events.
        time.sleep(_SETTLE)
        rounds.cpu.append((self._made.used()[0] - before) / count)
        return names

    def _burst_down(self, rounds: "_Rounds", names: Sequence[str]) -> None:
        before = self._made.used()[0]
        sent: list[float] = []
        self.delete(names, sent)
        rounds.take(sent, self._watch.wait(GONE, names, _deadline()))
        time.sleep(_SETTLE)
        rounds.cpu.append((self._made.used()[0] - before) / len(names))

    def rest(self, count: int, seconds: int) -> Rest:
        """Memory with *count* pods at rest, and processor time over *seconds*, 0 for none."""
        time.sleep(_AT_REST)
        rss, dockerd_rss = self._made.rss()
        if not seconds:
            return Rest(count, rss, dockerd_rss)
        begin, before = time.monotonic(), self._made.used()
        time.sleep(seconds)
        minutes = (time.monotonic() - begin) / 60
        cpu, dockerd = (
            (after - former) / minutes
            for after, former in zip(self._made.used(), before, strict=True)
        )
        return Rest(count, rss, dockerd_rss, cpu, dockerd)

    # --- requests ---

    def create(self, kinds: Iterable[str], sent: list[float] | None = None) -> list[str]:
        """Have a pod of each of *kinds*; their names. *sent* takes when each was asked for."""
        names = []
        for kind in kinds:
            name = f"pod-{next(self._numbers)}"
            if sent is not None:
                sent.append(time.monotonic())
            self._made.client.do("POST", PODS, pod(name, KINDS[kind]))
            names.append(name)
        return names

    def delete(self, names: Iterable[str], sent: list[float] | None = None) -> None:
        """Have pods deleted with a grace of a second."""
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 1}
        for name in names:
            if sent is not None:
                sent.append(time.monotonic())
            self._made.client.do("DELETE", f"{PODS}/{name}", options)


class _Rounds:
    """What rounds of one burst took."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._agent: list[float] = []
        self._slowest = 0.0
        self.docker: dict[int, list[float]] = {}
        self.cpu: list[float] = []

    def take(self, sent: Sequence[float], seen: Sequence[float]) -> None:
        """When each was asked for, and when it was seen."""
        self._agent.append(max(seen) - sent[0])
        each = (at - begin for begin, at in zip(sent, seen, strict=True))
        self._slowest = max(self._slowest, *each)

    def burst(self) -> Burst:
        """All of it."""
        docker = {parallel: Samples.of(times) for parallel, times in self.docker.items()}
        cpu = Samples.of(self.cpu).median
        return Burst(self._count, Samples.of(self._agent), self._slowest, docker, cpu)


def pod(name: str, command: Sequence[str]) -> dict[str, Any]:
    """A pod on the node, with one container."""
    container = {
        "name": "app",
        "image": _IMAGE,
        "command": list(command),
        "imagePullPolicy": "IfNotPresent",
    }
    spec = {
        "nodeName": NODE,
        "terminationGracePeriodSeconds": 1,
        # No cluster has a DNS server here.
        "dnsPolicy": "Default",
        "automountServiceAccountToken": False,
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def measure(made: Ground, ask: argparse.Namespace) -> Iterator[Result]:
    """All figures, each as soon as it is known. Raises BenchError."""
    with Watch(made.server) as watch, made.docker.starts() as starts:
        bench = Bench(made, watch, starts)
        _say("no pods, at rest ...")
        yield from figures.at_rest(bench.rest(0, ask.idle))
        _say("one pod at a time ...")
        bench.warm_up()
        create, ignores = bench.one(IGNORES, ask.samples)
        yield from figures.created(create)
        yield from figures.deleted(IGNORES, ignores)
        yield from figures.deleted(OBEYS, bench.one(OBEYS, ask.samples)[1])
        _say("containers are taken away ...")
        yield from figures.healed(*bench.heal(ask.heals))
        for count in ask.pods:
            yield from _bursts(bench, count, ask)
        made.check()


def _bursts(bench: Bench, count: int, ask: argparse.Namespace) -> Iterator[Result]:
    rests: list[Rest] = []

    def rest() -> None:
        # With few pods it would say little.
        if count == max(ask.pods):
            _say(f"{count} pods, at rest ...")
            rests.append(bench.rest(count, ask.idle))

    _say(f"{count} pods at once ...")
    up, down = bench.bursts(count, ask.rounds, rest)
    yield from figures.all_ready(up)
    yield from figures.all_gone(down)
    for one in rests:
        yield from figures.at_rest(one)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    ask = _parser().parse_args(argv)
    wrong = unfit(TOOLS)
    if wrong:
        _say(wrong)
        return EXIT_FAILED
    end_on_signals()
    results: list[Result] = []
    what, status = "", EXIT_OK
    try:
        with ground(embedded=ask.embedded) as made:
            what = made.server.what
            _say(f"measuring with {what}")
            for result in measure(made, ask):
                results.append(result)
                if ask.json:
                    line = {**json.loads(result.as_json()), "api_server": what}
                    print(json.dumps(line), flush=True)
    except KeyboardInterrupt:
        _say("interrupted, everything was removed")
        return EXIT_INTERRUPTED
    except BenchError as error:
        _say(str(error))
        status = EXIT_FAILED
    if results and not ask.json:
        # A pipe has no width; cutting the table there would lose the notes.
        show(results, Console() if sys.stdout.isatty() else Console(width=240))
        print(f"API server: {what}")
    missed = sum(result.met is False for result in results)
    if missed:
        _say(f"{missed} aim{'s' if missed > 1 else ''} missed")
    return status or (EXIT_MISSED if missed and ask.strict else EXIT_OK)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.pods",
        description="Measure nodeagent's pods beside bare calls to Docker in the same run.",
        epilog="exit status: 0 measured, 1 an aim missed (with --strict), 2 not measured",
    )
    add = parser.add_argument
    add(
        "--pods", type=_numbers, default=[20, 50], metavar="N[,N...]",
        help="pods at once (default 20,50)",
    )  # fmt: skip
    add("--rounds", type=_number(50), default=3, help="bursts, of which the median counts")
    add("--samples", type=_number(1000), default=15, help="single pods of each kind")
    add("--heals", type=_number(100), default=10, help="containers that are taken away")
    add("--idle", type=_number(3600, least=0), default=60, help="seconds at rest, 0 for none")
    add(
        "--embedded", action="store_true",
        help="the lab's own API server, even where a kube-apiserver was built",
    )  # fmt: skip
    add("--json", action="store_true", help="one JSON object a line")
    add("--strict", action="store_true", help="exit with 1 when an aim is missed")
    return parser


def _number(most: int, least: int = 1) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is no number from {least} to {most}")
        return int(text)

    return number


def _numbers(text: str) -> list[int]:
    # The node takes 110 pods.
    return sorted({_number(100)(part) for part in text.split(",")})


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.monotonic()
    done = work()
    return time.monotonic() - begin, done


def _deadline() -> float:
    return time.monotonic() + _DEADLINE


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
