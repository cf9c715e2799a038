"""What was measured, as values, and how they are shown.

A figure of this machine means little by itself; its ratio to a baseline taken in the same run
does. ``aim`` is what the value, or the ratio where ``aim_on_ratio`` is set, has to reach.
"""

import json
import operator
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">=": operator.ge,
}


class BenchError(Exception):
    """Something could not be measured."""


@dataclass(frozen=True, slots=True)
class Aim:
    """The value has to be *sign* *limit*: "<", "<=" or ">="."""

    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:g}"

    def met_by(self, value: float) -> bool:
        """Whether *value* is good enough."""
        return _COMPARE[self.sign](value, self.limit)


@dataclass(frozen=True, slots=True)
class Result:
    """One figure; *baseline* is in the same unit, *against* says what it is.

    *note* tells what the figure hides: number of samples, spread.
    """

    name: str
    value: float
    unit: str
    baseline: float | None = None
    against: str = ""
    aim: Aim | None = None
    aim_on_ratio: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Value by baseline; None without one."""
        return self.value / self.baseline if self.baseline else None

    @property
    def met(self) -> bool | None:
        """Whether the aim is reached; None without one."""
        if self.aim is None:
            return None
        judged = self.ratio if self.aim_on_ratio else self.value
        return judged is not None and self.aim.met_by(judged)

    def as_json(self) -> str:
        """One line."""
        return json.dumps(
            {
                **asdict(self),
                "ratio": self.ratio,
                "aim": str(self.aim) if self.aim else None,
                "met": self.met,
            }
        )


@dataclass(frozen=True, slots=True)
class Samples:
    """Repeated measurements of one thing."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> "Samples":
        """Raises BenchError when there are none."""
        made = cls(tuple(sorted(values)))
        if not made.values:
            raise BenchError("nothing was measured")
        return made

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def quantile(self, share: float) -> float:
        """The smallest sample that at least *share* (0..1) of all do not exceed."""
        rank = -(-share * len(self.values) // 1)
        return self.values[max(int(rank) - 1, 0)]

    def spread(self, digits: int = 2) -> str:
        """Smallest and largest, and how many there are."""
        low, high = self.values[0], self.values[-1]
        return f"{len(self.values)} samples, {low:.{digits}f} to {high:.{digits}f}"


def show(results: Sequence[Result], console: Console) -> None:
    """Print the table."""
    table = Table("measure", "value", "baseline", "ratio", "aim", "note", box=None, pad_edge=False)
    for column in (1, 2, 3):
        table.columns[column].justify = "right"
    for result in results:
        colour = {True: "green", False: "bold red", None: ""}[result.met]
        aim = "-"
        if result.aim is not None:
            of = "ratio " if result.aim_on_ratio else ""
            aim = f"{of}{result.aim}: {'met' if result.met else 'MISSED'}"
        baseline = "-"
        if result.baseline is not None:
            baseline = f"{_number(result.baseline)} {result.unit}"
        table.add_row(
            result.name,
            f"{_number(result.value)} {result.unit}",
            baseline,
            "-" if result.ratio is None else f"{result.ratio:.2f}",
            f"[{colour}]{aim}[/]" if colour else aim,
            "; ".join(
                filter(None, (result.against and f"baseline: {result.against}", result.note))
            ),
        )
    console.print(table)


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
