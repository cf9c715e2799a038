"""The figures of one number of services with one variant, as JSON and as rows of the table."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from bench.result import Aim, Result, Samples
from bench.services_baseline import Baseline
from bench.services_connect import OTHER, VIP

ANY, NFT = "any", "nft"
AIMS: Mapping[str, tuple[str, Aim]] = {
    "cold_start_s": (NFT, Aim("<", 5.0)),
    "change_median_ms": (NFT, Aim("<", 40.0)),
    "change_p99_ms": (NFT, Aim("<", 120.0)),
    "storm_s": (ANY, Aim("<", 1.0)),
    "repair_s": (ANY, Aim("<", 2.0)),
    "connect_growth_vip": (ANY, Aim("<", 0.15)),
    "connect_growth_other": (ANY, Aim("<", 0.15)),
    "rss_mib": (ANY, Aim("<=", 150.0)),
    "idle_cpu_percent": (ANY, Aim("<", 0.5)),
}
"""With which variant, and what each figure has to reach with up to 10,000 services."""

_AIMED_AT = 10_000
_UNITS = {"s": "s", "ms": "ms", "mib": "MiB", "percent": "%"}
_LAYOUT = "kube-proxy's layout"


@dataclass(frozen=True, slots=True)
class Connect:
    """Median connect() in microseconds by host ("one", "all", "baseline one", "baseline all")
    and target, each of *count* connections."""

    median_us: Mapping[str, Mapping[str, float]]
    count: int

    def growth(self, target: str, prefix: str = "") -> float | None:
        """By how much connect() with all services takes longer than with one: 0.1 is a tenth.

        *prefix* is "" or "baseline "; None when that was not measured.
        """
        one, many = self.median_us.get(f"{prefix}one"), self.median_us.get(f"{prefix}all")
        return many[target] / one[target] - 1 if one and many else None

    def note(self, target: str) -> str:
        """The medians."""
        one, many = self.median_us["one"][target], self.median_us["all"][target]
        return f"{one:.1f} to {many:.1f} us, medians of {self.count}"


@dataclass(frozen=True, slots=True)
class Figures:
    """All that was measured; *baseline* is None when it was left out."""

    services: int
    variant: str
    cold_start: Samples
    changes: Samples
    answers: Samples
    storm_s: float
    repair_s: float
    rss_mib: float
    rss_after_mib: float
    idle_cpu_percent: float | None
    connect: Connect
    baseline: Baseline | None

    def values(self) -> dict[str, float | None]:
        """The figures by name; the unit ends the name, a growth of 0.1 is a tenth."""
        return {
            "cold_start_s": self.cold_start.median,
            "change_median_ms": self.changes.median,
            "change_p99_ms": self.changes.quantile(0.99),
            "change_to_connection_median_ms": self.answers.median,
            "storm_s": self.storm_s,
            "repair_s": self.repair_s,
            "connect_growth_vip": self.connect.growth(VIP),
            "connect_growth_other": self.connect.growth(OTHER),
            "rss_mib": self.rss_mib,
            "rss_after_mib": self.rss_after_mib,
            "idle_cpu_percent": self.idle_cpu_percent,
        }

    def baselines(self) -> dict[str, float | None]:
        """The baseline's figures by the same names; None where it has none."""
        base = self.baseline or Baseline(0.0)
        return {
            "cold_start_s": base.cold_start_s,
            "change_median_ms": base.change_median_ms,
            "change_p99_ms": base.change_p99_ms,
            "partial_change_median_ms": base.partial_change_median_ms,
            "storm_s": base.storm_s,
            "connect_growth_vip": self.connect.growth(VIP, "baseline "),
            "connect_growth_other": self.connect.growth(OTHER, "baseline "),
            "rss_mib": None,
        }

    def aim(self, name: str) -> Aim | None:
        """What the figure has to reach; None for what has no aim with these services."""
        variant, aim = AIMS.get(name, ("", None))
        counts = variant in {ANY, self.variant} and self.services <= _AIMED_AT
        return aim if counts else None

    def as_json(self) -> str:
        """One line: the figures, the baseline's as ``baseline_*``, and the aims missed."""
        return json.dumps(
            {
                "services": self.services,
                "variant": self.variant,
                **{name: _round(value) for name, value in self.values().items()},
                **{f"baseline_{n}": _round(value) for n, value in self.baselines().items()},
                "baseline_note": self._stopped(),
                "connect_median_us": {
                    host: {target: _round(value) for target, value in of_host.items()}
                    for host, of_host in self.connect.median_us.items()
                },
                "samples": {
                    "cold_start": len(self.cold_start.values),
                    "change": len(self.changes.values),
                    "change_to_connection": len(self.answers.values),
                    "connect": self.connect.count,
                },
                "missed": [result.name for result in self._rows() if result.met is False],
            }
        )

    def results(self) -> list[Result]:
        """The rows of the table."""
        return [
            Result(
                f"{self.services} services, {self.variant}, {row.name}",
                row.value,
                row.unit,
                row.baseline,
                row.against,
                row.aim,
                note=row.note,
            )
            for row in self._rows()
        ]

    def _rows(self) -> list[Result]:
        baselines = self.baselines()
        notes = {
            "cold_start_s": self.cold_start.spread(),
            "change_median_ms": self.changes.spread(1),
            "change_to_connection_median_ms": self.answers.spread(1),
            "connect_growth_vip": self.connect.note(VIP),
            "connect_growth_other": self.connect.note(OTHER),
            "repair_s": "the nat table flushed",
            "rss_after_mib": "after storm and repair",
        }
        partial = baselines["partial_change_median_ms"]
        if partial is not None:
            notes["change_median_ms"] += f"; kube-proxy's chains of one service: {partial:.0f} ms"
        if self.baseline is not None and not self.baseline.is_loaded:
            notes["cold_start_s"] += f"; {self._stopped()}"
        return [
            Result(
                name,
                value,
                _UNITS.get(name.rpartition("_")[2], ""),
                baselines.get(name),
                _LAYOUT if baselines.get(name) is not None else "",
                self.aim(name),
                note=notes.get(name, ""),
            )
            for name, value in self.values().items()
            if value is not None
        ]

    def _stopped(self) -> str:
        base = self.baseline
        if base is None:
            return "not measured"
        if base.storm_s is not None:
            return ""
        step = "a later step of" if base.is_loaded else "the load of"
        return f"{step} {_LAYOUT} was stopped after {base.limit:g} s"


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
