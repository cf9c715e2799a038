"""``python -m bench``: measure, print, clean up.

An interrupt ends the measurement at once; further ones are ignored while what was made is
removed.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console

from bench import datapath, memory, onelease, repair, silence, startup
from bench.entry import end_on_signals, unfit
from bench.result import BenchError, Result, show
from bench.world import World, sweep, warm_up, world

EXIT_OK, EXIT_MISSED, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 2, 130

TOOLS = ("ip", "bridge", "ss", "nsenter", "setpriv", "etcd", "etcdctl", "iperf3", "ping")

Measure = Callable[[World, argparse.Namespace], Iterator[Result]]

MEASURES: dict[str, Measure] = {
    "startup": lambda made, ask: startup.measure(made, ask.leases, ask.rounds),
    "onelease": lambda made, ask: onelease.measure(made, ask.peers, ask.count),
    "memory": lambda made, ask: memory.measure(
        made, sorted({*ask.sizes, ask.peers}), ask.idle, ask.peers
    ),
    "repair": lambda made, ask: repair.measure(made, ask.peers),
    "silence": lambda made, ask: silence.measure(made, ask.rounds),
    "datapath": lambda made, ask: datapath.measure(made, ask.streams, ask.seconds),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    ask = _parser().parse_args(argv)
    wrong = unfit(TOOLS)
    if wrong:
        _say(wrong)
        return EXIT_FAILED
    end_on_signals()
    results: list[Result] = []
    try:
        failed = _measure_all(ask, results)
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


def _measure_all(ask: argparse.Namespace, results: list[Result]) -> bool:
    """Fill *results*; returns whether something could not be measured."""
    failed = False
    for name in ask.names or MEASURES:
        _say(f"measuring {name} ...")
        try:
            with world() as made:
                warm_up(made)
                for result in MEASURES[name](made, ask):
                    results.append(result)
                    if ask.json:
                        print(result.as_json(), flush=True)
        # The helpers from tests/ fail by AssertionError.
        except (BenchError, AssertionError) as error:
            _say(f"{name}: {error}")
            failed = True
    return failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure netd against a baseline in the same run.",
        epilog="exit status: 0 measured, 1 an aim missed (with --strict), 2 not measured",
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="name", type=_name, help=", ".join(MEASURES))
    add("--leases", type=_numbers(7000), default=[1000, 3000], help="startup: lease records")
    add("--rounds", type=_number(50), default=3, help="startup, silence: repetitions")
    add("--count", type=_number(5000), default=300, help="onelease: adds, and removes")
    add(
        "--peers",
        type=_number(7000),
        default=1000,
        help="onelease, idle CPU, repair: peers present",
    )
    add("--sizes", type=_numbers(7000), default=[1, 1000, 3000], help="memory: peers present")
    add("--idle", type=_number(600), default=60, help="memory: seconds without any change")
    add("--streams", type=_number(50), default=6, help="datapath: streams each way")
    add("--seconds", type=_number(60), default=3, help="datapath: length of a stream")
    add("--json", action="store_true", help="one JSON object a line")
    add("--strict", action="store_true", help="exit with 1 when an aim is missed")
    return parser


def _name(text: str) -> str:
    if text not in MEASURES:
        raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(MEASURES)}")
    return text


def _number(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is no number from 1 to {most}")
        return int(text)

    return number


def _numbers(most: int) -> Callable[[str], list[int]]:
    def numbers(text: str) -> list[int]:
        found = [_number(most)(part) for part in text.split(",")]
        return sorted(set(found))

    return numbers


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
