"""One lease written to or deleted from etcd, until the kernel has followed, with many peers.

The clock starts before the request is sent, so etcd's own work is part of the figure; it is also
shown alone. Baseline: the same three entries by three commands, on a hand-made device.
"""

import base64
import http.client
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping

from bench.events import Recorder, made_in
from bench.hand import HandMade
from bench.peers import Peer, entries, peers
from bench.result import Aim, BenchError, Result, Samples
from bench.world import ETCD_ADDRESS, ETCD_PORT, Daemon, World
from netd.leases.model import LEASE_TTL

MEDIAN_AIM = Aim("<", 4.0)
P99_AIM = Aim("<", 20.0)
"""Milliseconds."""

_DEADLINE = 60.0
_PAUSE = 0.01
_BY_HAND = 100
_POOL = 50
BASELINE = "ip neigh, bridge fdb, ip route by hand"


class Writer:
    """One kept connection to etcd's gateway, without anything between us and the socket."""

    def __init__(self, world: World) -> None:
        self._connection = made_in(world.fabric.bridge.path, _connect)

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def send(self, path: str, body: Mapping[str, object]) -> None:
        """Send a request; ``answer`` has to follow."""
        self._connection.request("POST", f"/v3/{path}", json.dumps(body))

    def answer(self) -> object:
        """The decoded answer to what was sent. Raises BenchError when it is a refusal."""
        reply = self._connection.getresponse()
        text = reply.read()
        if reply.status != 200:
            raise BenchError(f"etcd: {reply.status} {text[:300]!r}")
        return json.loads(text)

    def grant(self) -> str:
        """A new etcd lease; its id."""
        self.send("lease/grant", {"TTL": str(LEASE_TTL)})
        answer = self.answer()
        assert isinstance(answer, dict)
        return str(answer["ID"])


def _connect() -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(ETCD_ADDRESS, ETCD_PORT, timeout=10)
    connection.connect()
    return connection


def measure(world: World, present: int, count: int) -> Iterator[Result]:
    """Yield the results of *count* adds and as many removes beside *present* peers."""
    others = peers(present)
    news = peers(_POOL, first=present + 1)
    by_hand = _by_hand(world, others, news)
    prefix = world.records("one-lease", others)
    with (
        world.host() as host,
        world.daemon(host, prefix) as daemon,
        Recorder(host.space.path) as recorder,
    ):
        daemon.start()
        daemon.wait_entries(recorder, entries(others), _DEADLINE)
        daemon.wait_ready()
        recorder.forget()
        turns = itertools.islice(itertools.cycle(news), count)
        added, removed, written = _churn(world, prefix, daemon, recorder, turns)
    for name, samples, baseline in (
        ("add", Samples.of(added), Samples.of(by_hand[0])),
        ("remove", Samples.of(removed), Samples.of(by_hand[1])),
    ):
        note = f"{present} peers; {samples.spread(1)}"
        label = f"one lease, {name}"
        p99 = baseline.quantile(0.99)
        yield Result(
            f"{label}, median", samples.median, "ms", baseline.median, BASELINE, MEDIAN_AIM,
            note=note,
        )  # fmt: skip
        yield Result(
            f"{label}, p99", samples.quantile(0.99), "ms", p99, BASELINE, P99_AIM, note=note
        )
    etcd = Samples.of(written)
    yield Result(
        "one lease, of which etcd's answer, median", etcd.median, "ms", note=etcd.spread(1)
    )


def _churn(
    world: World, prefix: str, daemon: Daemon, recorder: Recorder, news: Iterable[Peer]
) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds of each add, each remove, and each of etcd's answers to an add."""
    added, removed, written = [], [], []
    writer = Writer(world)
    try:
        lease = writer.grant()
        for one in news:
            key = _text(f"{prefix}/subnets/{one.key}")
            put = {"key": key, "value": _text(one.value), "lease": lease}
            begin = time.monotonic()
            writer.send("kv/put", put)
            writer.answer()
            written.append((time.monotonic() - begin) * 1e3)
            at = recorder.wait_one(one.entries, present=True, deadline=_DEADLINE)
            added.append((at - begin) * 1e3)
            time.sleep(_PAUSE)
            begin = time.monotonic()
            writer.send("kv/deleterange", {"key": key})
            writer.answer()
            at = recorder.wait_one(one.entries, present=False, deadline=_DEADLINE)
            removed.append((at - begin) * 1e3)
            time.sleep(_PAUSE)
            daemon.check()
    finally:
        writer.close()
    return added, removed, written


def _by_hand(world: World, others: list[Peer], news: list[Peer]) -> tuple[list[float], list[float]]:
    """Milliseconds of each add and each remove by three commands."""
    with world.host() as host:
        made = HandMade(host.space, "hand.1", 1, host.address)
        made.add_all(others)
        # From inside, so that the baseline does not pay for entering the namespace.
        return made_in(host.space.path, lambda: _type(made, news))


def _type(made: HandMade, news: list[Peer]) -> tuple[list[float], list[float]]:
    added, removed = [], []
    for one in itertools.islice(itertools.cycle(news), _BY_HAND):
        begin = time.monotonic()
        made.add_one(one)
        middle = time.monotonic()
        made.remove_one(one)
        added.append((middle - begin) * 1e3)
        removed.append((time.monotonic() - middle) * 1e3)
    return added, removed


def _text(value: str) -> str:
    return base64.b64encode(value.encode()).decode()
