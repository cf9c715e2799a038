"""``python -m bench.services``: netd's services beside kube-proxy's layout, in one run.

For each number of services and each variant of iptables: start, changes, a storm, memory,
processor time at rest, and the cost of a connection with one service and with all of them. An
interrupt ends the measurement at once; further ones are ignored while what was made is removed.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from rich.console import Console

from bench import services_baseline as baseline
from bench.entry import end_on_signals, unfit
from bench.events import made_in
from bench.result import BenchError, Result, Samples, show
from bench.services_connect import OTHER, VIP, Listeners
from bench.services_figures import Connect, Figures
from bench.services_kernel import VARIANTS, Kernel
from bench.services_made import LISTENERS, MOST, Book, Event, services
from bench.services_world import OTHER_TARGET, Api, Ground, ServiceDaemon, ground
from bench.world import sweep
from tests.support.netns import Namespace

EXIT_OK, EXIT_MISSED, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 2, 130

TOOLS = ("ip", "nsenter", "setpriv", *(f"iptables-{one}-restore" for one in VARIANTS))

STORM = 1000
"""Changes in a storm, spread over one second."""

_START_DEADLINE, _CHANGE_DEADLINE, _STORM_DEADLINE = 180.0, 30.0, 120.0
_PAUSE = 0.05
_SETTLE = 3.0
_ANSWERS = 20
_ANSWER_PAUSE = 0.0005


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    ask = _parser().parse_args(argv)
    wrong = unfit(TOOLS)
    if wrong:
        _say(wrong)
        return EXIT_FAILED
    end_on_signals()
    results: list[Result] = []
    failed = False
    try:
        for variant in ask.variant:
            for count in ask.services:
                failed = not _one(ask, variant, count, results) or failed
    except KeyboardInterrupt:
        _say("interrupted, everything was removed")
        return EXIT_INTERRUPTED
    finally:
        sweep()
    if not ask.json:
        # A pipe has no width; cutting the table there would lose the notes.
        show(results, Console() if sys.stdout.isatty() else Console(width=200))
    if failed:
        return EXIT_FAILED
    missed = sum(result.met is False for result in results)
    if missed:
        _say(f"{missed} aim{'s' if missed > 1 else ''} missed")
    return EXIT_MISSED if missed and ask.strict else EXIT_OK


def _one(ask: argparse.Namespace, variant: str, count: int, results: list[Result]) -> bool:
    """Measure one number of services with one variant; returns whether it could be done."""
    _say(f"measuring {count} services, {variant} ...")
    try:
        with ground() as made:
            _warm_up(made, variant)
            figures = measure(made, variant, count, ask)
    # The helpers from tests/ fail by AssertionError.
    except (BenchError, AssertionError) as error:
        _say(f"{count} services, {variant}: {error}")
        return False
    results.extend(figures.results())
    if ask.json:
        print(figures.as_json(), flush=True)
    return True


def measure(made: Ground, variant: str, count: int, ask: argparse.Namespace) -> Figures:
    """All figures of *count* services with *variant*. Raises BenchError."""
    with ExitStack() as stack:
        api = stack.enter_context(made.api(count))
        cold = [_cold_start(made, api, variant, count) for _ in range(ask.rounds - 1)]
        space = stack.enter_context(made.host())
        daemon = stack.enter_context(made.daemon(space, api, variant))
        kernel = stack.enter_context(Kernel(space, variant))
        book = Book(services(count))
        cold.append(_start(daemon, kernel, book))
        time.sleep(_SETTLE)
        rss = daemon.rss()
        idle = daemon.idle(ask.idle) if ask.idle else None
        changes = Samples.of(_changes(api, kernel, book, ask.changes))
        answers = Samples.of(_answers(api, made.listeners, space, book))
        storm = _storm(api, kernel, book)
        repair = _repair(space, kernel, book)
        daemon.check()
        connect, layout = _beside(made, space, variant, book, ask)
        return Figures(
            services=count,
            variant=variant,
            cold_start=Samples.of(cold),
            changes=changes,
            answers=answers,
            storm_s=storm,
            repair_s=repair,
            rss_mib=rss,
            rss_after_mib=daemon.rss(),
            idle_cpu_percent=idle,
            connect=connect,
            baseline=layout,
        )


def _warm_up(made: Ground, variant: str) -> None:
    """Start netd once, so that files are in memory and its bytecode is compiled."""
    with made.api(1) as api:
        _cold_start(made, api, variant, 1)


def _cold_start(made: Ground, api: Api, variant: str, count: int) -> float:
    """One cold start on a new host."""
    with (
        made.host() as space,
        made.daemon(space, api, variant) as daemon,
        Kernel(space, variant) as kernel,
    ):
        return _start(daemon, kernel, Book(services(count)))


def _start(daemon: ServiceDaemon, kernel: Kernel, book: Book) -> float:
    """Start netd; returns the seconds until the last commit of its first rules."""
    deadline = time.monotonic() + _START_DEADLINE
    daemon.start()
    last = kernel.settle(daemon.is_ready, deadline)
    kernel.check(book.expected())
    return last - daemon.started


def _changes(api: Api, kernel: Kernel, book: Book, count: int) -> list[float]:
    """Milliseconds from each of *count* changes of one endpoint to the rules."""
    taken = []
    number = 0
    for index in range(count):
        if index % 2 == 0:
            number = book.pick()
        event = book.remove(number) if index % 2 else book.add(number)
        taken.append(_change(api, kernel, event))
        time.sleep(_PAUSE)
    kernel.check(book.expected())
    return taken


def _change(api: Api, kernel: Kernel, event: Event) -> float:
    before = kernel.mark()
    begin = api.push(event)
    while True:
        at, before = kernel.wait_commit(before, begin + _CHANGE_DEADLINE)
        if kernel.points_to(event.address) == event.present:
            return (at - begin) * 1e3


def _answers(api: Api, listeners: Listeners, space: Namespace, book: Book) -> list[float]:
    """Milliseconds until a new connection from *space* reaches the endpoint that a service was
    changed to."""
    first = book.made[0]
    target = (first.vip, first.port)

    def take() -> list[float]:
        taken = []
        for index in range(_ANSWERS + 1):
            wanted = LISTENERS[index % 2]
            begin = api.push(book.replace(0, [wanted]))
            while listeners.reached(target) != wanted:
                if time.monotonic() > begin + _CHANGE_DEADLINE:
                    raise BenchError(f"connections to {first.vip} do not reach {wanted}")
                time.sleep(_ANSWER_PAUSE)
            taken.append((time.monotonic() - begin) * 1e3)
            time.sleep(_PAUSE)
        # Before the first, both endpoints answered.
        return taken[1:]

    try:
        return made_in(space.path, take)
    finally:
        api.push(book.replace(0, LISTENERS))


def _storm(api: Api, kernel: Kernel, book: Book) -> float:
    """Seconds from the last of STORM changes within a second until the rules are right."""
    events = book.storm(STORM)
    begin = pushed = time.monotonic()
    for index, event in enumerate(events):
        time.sleep(max(0.0, begin + index / STORM - time.monotonic()))
        pushed = api.push(event)
    last = kernel.settle(lambda: True, pushed + _STORM_DEADLINE)
    kernel.check(book.expected())
    return max(0.0, last - pushed)


def _repair(space: Namespace, kernel: Kernel, book: Book) -> float:
    """Seconds from the end of a flush of the whole nat table until the rules are right."""
    space.run(f"iptables-{kernel.variant} -w -t nat -F")
    begin = time.monotonic()
    first, _ = kernel.wait_commit(kernel.mark(), begin + _CHANGE_DEADLINE)
    last = kernel.settle(lambda: True, begin + _STORM_DEADLINE)
    kernel.check(book.expected())
    return max(first, last) - begin


def _beside(
    made: Ground, space: Namespace, variant: str, book: Book, ask: argparse.Namespace
) -> tuple[Connect, baseline.Baseline | None]:
    """Connections in *space*, beside a netd with one service and both of kube-proxy's layout."""
    count = len(book.made)
    with ExitStack() as stack:
        alone = stack.enter_context(made.host())
        one = stack.enter_context(made.api(1))
        daemon = stack.enter_context(made.daemon(alone, one, variant))
        with Kernel(alone, variant) as kernel:
            _start(daemon, kernel, Book(services(1)))
        hosts = {"one": alone.path, "all": space.path}
        layout = None
        if not ask.no_baseline:
            loaders = [
                baseline.Loader(
                    stack.enter_context(made.host()), variant, made.directory, ask.baseline_limit
                )
                for _ in range(2)
            ]
            loaders[0].load(services(1))
            layout = baseline.measure(loaders[1], services(count), STORM)
            if layout.is_loaded:
                hosts |= {
                    "baseline one": loaders[0].space.path,
                    "baseline all": loaders[1].space.path,
                }
        first = book.made[0]
        targets = {VIP: (first.vip, first.port), OTHER: OTHER_TARGET}
        times = made.listeners.connect_times(hosts, targets, ask.connects)
        return Connect(times, ask.connects), layout


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.services",
        description="Measure netd's services beside kube-proxy's layout in the same run.",
        epilog="exit status: 0 measured, 1 an aim missed (with --strict), 2 not measured",
    )
    add = parser.add_argument
    add(
        "--services", type=_numbers(MOST, least=2), default=[1000, 5000, 10_000],
        metavar="N[,N...]", help="how many services (default 1000,5000,10000)",
    )  # fmt: skip
    add(
        "--variant", type=_variants, default=list(VARIANTS), metavar="nft|legacy",
        help="which iptables (default: one after the other)",
    )  # fmt: skip
    add("--rounds", type=_number(50), default=3, help="cold starts, of which the median counts")
    add("--changes", type=_number(10_000), default=200, help="changes of one endpoint")
    add("--connects", type=_number(100_000), default=3000, help="connections of each kind")
    add("--idle", type=_number(3600, least=0), default=30, help="seconds at rest, 0 for none")
    add(
        "--baseline-limit", type=_number(3600), default=120, metavar="SECONDS",
        help="after this a load of kube-proxy's layout is stopped",
    )  # fmt: skip
    add("--no-baseline", action="store_true", help="leave kube-proxy's layout out")
    add("--json", action="store_true", help="one JSON object a line")
    add("--strict", action="store_true", help="exit with 1 when an aim is missed")
    return parser


def _variants(text: str) -> list[str]:
    if text not in VARIANTS:
        raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(VARIANTS)}")
    return [text]


def _number(most: int, least: int = 1) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is no number from {least} to {most}")
        return int(text)

    return number


def _numbers(most: int, least: int) -> Callable[[str], list[int]]:
    def numbers(text: str) -> list[int]:
        return sorted({_number(most, least)(part) for part in text.split(",")})

    return numbers


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
