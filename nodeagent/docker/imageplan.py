"""Which images go when the disk is full: those unused for longest, and nothing before it is."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from nodeagent.docker.api import Image
from nodeagent.docker.references import Reference, names, parse


@dataclass(frozen=True, slots=True)
class Marks:
    """Percent of the disk: above *high* images go until *low* is reached; *age* in seconds."""

    high: int = 85
    low: int = 80
    age: float = 120.0

    def __post_init__(self) -> None:
        """Refuse marks that make no sense."""
        if not 0 <= self.low <= self.high <= 100:
            raise ValueError(
                f"image-gc-low-threshold ({self.low}) must be at most image-gc-high-threshold "
                f"({self.high}), both from 0 to 100"
            )


def unused_since(
    images: Iterable[Image], in_use: Iterable[str], before: Mapping[str, float], now: float
) -> dict[str, float]:
    """Since when each image has been seen unused, by id; *before* is the last answer.

    *in_use* are references as containers spell them, or ids; *now* is monotonic.
    """
    used = list(_references(in_use))
    return {
        one.id: before.get(one.id, now)
        for one in images
        if not any(names(two, one.id, (*one.tags, *one.digests)) for two in used)
    }


def _references(texts: Iterable[str]) -> Iterator[Reference]:
    for text in set(texts):
        try:
            yield parse(text)
        except ValueError:
            continue


def plan(
    images: Iterable[Image], unused: Mapping[str, float], usage: float, now: float, marks: Marks
) -> tuple[str, ...]:
    """Ids in the order in which they go, until the disk is low enough; *usage* in percent.

    Those in *unused* for less than ``marks.age`` stay.
    """
    # A high mark of 100 switches the clean-up off, as the kubelet's does.
    if usage < marks.high or marks.high == 100:
        return ()
    old = [one for one in images if one.id in unused and now - unused[one.id] >= marks.age]
    return tuple(one.id for one in sorted(old, key=lambda one: (unused[one.id], -one.size, one.id)))
