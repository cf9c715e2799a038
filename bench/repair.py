"""How long what somebody damaged stays damaged, with netd running over many peers.

There is no baseline to measure: flannel looks after its chains every 5 s and repairs nothing
else. The aim is the requirement itself.
"""

import statistics
import time
from collections.abc import Callable, Iterator

from bench.events import Recorder
from bench.peers import entries, peers
from bench.result import Aim, BenchError, Result
from bench.world import World

AIM = Aim("<", 1000.0)
"""Milliseconds, for the slowest of the samples."""

_DEADLINE = 30.0
_SAMPLES = 5


def measure(world: World, count: int) -> Iterator[Result]:
    """Yield the time to the repair of each kind of damage, with *count* peers present."""
    others = peers(count)
    prefix = world.records("repair", others)
    one = others[len(others) // 2]
    base, subnet = str(one.subnet.network_address), str(one.subnet)
    with world.host() as host, world.daemon(host, prefix) as daemon:
        with Recorder(host.space.path) as recorder:
            daemon.start()
            daemon.wait_entries(recorder, entries(others), 120.0)
        daemon.wait_ready()
        run = host.space.run

        def has(command: str, word: str) -> Callable[[], bool]:
            return lambda: word in run(command, check=False)

        fdb = f"{one.mac} dev flannel.1 dst {one.public_ip}"
        cases: tuple[tuple[str, str, Callable[[], bool]], ...] = (
            ("route deleted", f"ip route del {subnet}", has(f"ip route show {subnet}", "via")),
            (
                "neighbour deleted",
                f"ip neigh del {base} dev flannel.1",
                has(f"ip neigh show {base} dev flannel.1", "PERMANENT"),
            ),
            (
                "FDB entry deleted",
                f"bridge fdb del {fdb}",
                lambda: f"{one.mac} dst" in run("bridge fdb show dev flannel.1"),
            ),
            (
                "address deleted",
                "ip addr flush dev flannel.1",
                has("ip -4 addr show dev flannel.1", "inet "),
            ),
            (
                f"device deleted, {count} peers replayed",
                "ip link del flannel.1",
                lambda: run("ip route show dev flannel.1", check=False).count("via") == count,
            ),
            (
                "docker0 deleted",
                "ip link del docker0",
                has("ip -4 addr show dev docker0", "inet "),
            ),
            (
                "nat table flushed",
                "iptables-nft -t nat -F",
                has("iptables-nft -t nat -S POSTROUTING", "FLANNEL-POSTRTG"),
            ),
        )
        for name, damage, mended in cases:
            yield _case(run, name, damage, mended)


def _case(run: Callable[[str], str], name: str, damage: str, mended: Callable[[], bool]) -> Result:
    took = []
    for _ in range(_SAMPLES):
        run(damage)
        begin = time.monotonic()
        while not mended():
            if time.monotonic() - begin > _DEADLINE:
                raise BenchError(f"{name}: not repaired within {_DEADLINE:g} s")
        took.append((time.monotonic() - begin) * 1000)
    return Result(
        f"repair, {name}, slowest",
        max(took),
        "ms",
        aim=AIM,
        note=f"{_SAMPLES} samples, median {statistics.median(took):.1f}",
    )
