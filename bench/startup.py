"""Process start to the last kernel entry, and a restart over a data plane that is in place."""

import time
from collections.abc import Iterator, Sequence

from bench.events import Recorder
from bench.hand import HandMade
from bench.peers import Peer, entries, peers
from bench.result import Aim, BenchError, Result, Samples
from bench.world import Daemon, World

AIMS = {1000: Aim("<=", 1.5), 3000: Aim("<=", 2.5)}
"""Seconds from the start of the process, by number of leases."""

BASELINE = "ip -batch and bridge -batch"
_DEADLINE = 120.0
_AFTER_RESTART = 1.0


def measure(world: World, leases: Sequence[int], rounds: int) -> Iterator[Result]:
    """Yield the results for each number of leases, medians over *rounds*."""
    for count in leases:
        yield from _one_size(world, count, rounds)


def _one_size(world: World, count: int, rounds: int) -> Iterator[Result]:
    others = peers(count)
    prefix = world.records(f"startup-{count}", others)
    last, ready, again, by_hand = [], [], [], []
    for _ in range(rounds):
        with world.host() as host:
            by_hand.append(HandMade(host.space, "hand.1", 1, host.address).add_all(others))
        with world.host() as host, world.daemon(host, prefix) as daemon:
            with Recorder(host.space.path) as recorder:
                daemon.start()
                at = daemon.wait_entries(recorder, entries(others), _DEADLINE)
                last.append(at - daemon.started)
                ready.append(daemon.wait_ready() - daemon.started)
            _check_complete(daemon, count)
            daemon.kill()
            again.append(_restart(daemon, others))
    baseline = Samples.of(by_hand).median
    for name, samples, aim in (
        ("start to last entry", Samples.of(last), AIMS.get(count)),
        ("start to READY", Samples.of(ready), None),
        ("restart to READY", Samples.of(again), None),
    ):
        note = samples.spread()
        if name.startswith("restart"):
            note += "; nothing was removed meanwhile"
        yield Result(
            f"{count} leases, {name}", samples.median, "s", baseline, BASELINE, aim, note=note
        )


def _restart(daemon: Daemon, others: Sequence[Peer]) -> float:
    """Start a killed netd again; returns the seconds until READY."""
    with Recorder(daemon.ns.path) as recorder:
        daemon.start()
        took = daemon.wait_ready() - daemon.started
        # A mistake of netd could also come after its first look.
        time.sleep(_AFTER_RESTART)
        removed = set(recorder.removed()) & entries(others)
    if removed:
        raise BenchError(f"a restart removed {len(removed)} entries of the data plane")
    _check_complete(daemon, len(others))
    return took


def _check_complete(daemon: Daemon, count: int) -> None:
    """Raise BenchError unless the kernel has exactly the entries of *count* peers."""
    neighbours = daemon.ns.json("ip neigh show dev flannel.1 nud permanent")
    routes = daemon.ns.json("ip route show dev flannel.1")
    fdb = [row for row in daemon.ns.json("bridge fdb show dev flannel.1") if "dst" in row]
    found = (len(neighbours), len(routes), len(fdb))
    if found != (count, count, count):
        raise BenchError(f"neighbours, routes, FDB entries: {found} for {count} peers")
