"""The operator's reference and the links in the documentation tell the truth about the code."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import Counter, Gauge, Histogram

from hostkit.config import Option, show
from hostkit.metrics import Metrics
from hostkit.problems import Problems
from netd.__main__ import COMMANDS
from netd.config import OPTIONS
from netd.overlay.manager import KINDS
from netd.overlayhalf import OverlayHalf
from netd.services.figures import ProxyFigures
from netd.status import OVERLAY_SECTIONS, Figures, Repairs, show_problems

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "netd.md").read_text(encoding="utf-8")
VISIBLE = [option for option in OPTIONS if not option.hidden]
ROWS = dict(re.findall(r"^\| `--([a-z0-9-]+)` \| (.*?) \| ", REFERENCE, re.MULTILINE))
"""Flag name to the text in the default column."""


class NamedMetrics(Metrics):
    """Metrics that remember the names under which they are exposed."""

    def __init__(self, prefix: str = "netd", names: list[str] | None = None) -> None:
        super().__init__(prefix)
        self.names: list[str] = [] if names is None else names

    def under(self, prefix: str) -> "NamedMetrics":
        return NamedMetrics(prefix, self.names)

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        self.names.append(f"{self.prefix}_{name}_total")
        return super().counter(name, text, *labels)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        self.names.append(f"{self.prefix}_{name}")
        return super().gauge(name, text, *labels)

    def histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        self.names.append(f"{self.prefix}_{name}")
        return super().histogram(name, text, buckets, *labels)

    def reading(self, name: str, text: str, read: Callable[[], float]) -> None:
        self.names.append(f"{self.prefix}_{name}_total")
        super().reading(name, text, read)


class NoReadings(dict[str, Callable[[], float]]):
    """Readings of whatever name, never taken."""

    def __missing__(self, _name: str) -> Callable[[], float]:
        return lambda: 0.0


def documented(option: Option) -> str:
    """The default as the reference writes it."""
    if option.default in ("", (), None):
        return "none"
    return f"`{show(option.default)}`"


@pytest.mark.parametrize("option", VISIBLE, ids=lambda option: option.name)
def test_every_flag_is_in_the_reference_with_its_default(option: Option) -> None:
    assert ROWS.get(option.name) == documented(option)


def test_the_reference_names_no_flag_that_does_not_exist() -> None:
    assert ROWS.keys() == {option.name for option in VISIBLE}
    named = set(re.findall(r"`--([a-z0-9-]+)", REFERENCE))
    assert named <= {option.name for option in OPTIONS}


def test_every_metric_is_in_the_reference_and_no_other() -> None:
    metrics = NamedMetrics()
    # The figures are made here and never read, so no daemon is needed behind them.
    Figures(metrics, cast("OverlayHalf", object()))
    Repairs(metrics)
    ProxyFigures(metrics, NoReadings())
    show_problems(metrics, Problems())
    rows = re.findall(r"^\| (`(?:netd|kubeproxy)_[^|]*)\|", REFERENCE, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)", row)} == set(metrics.names)


@pytest.mark.parametrize("section", OVERLAY_SECTIONS)
def test_every_section_of_the_status_document_is_in_the_reference(section: str) -> None:
    assert re.search(rf"^\| `{section}`", REFERENCE, re.MULTILINE)


@pytest.mark.parametrize("kind", [*KINDS, "iptables", "bridge", "file", "sysctl"])
def test_every_kind_of_repair_is_in_the_reference(kind: str) -> None:
    assert f"`{kind}`" in REFERENCE


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_reference(command: str) -> None:
    assert re.search(rf"^netd \[?{command}\]? ", REFERENCE, re.MULTILINE)


def pages() -> list[Path]:
    """Every Markdown page of the repository that people wrote."""
    folders = ("docs", "hostkit", "netd", "nodeagent", "lab", "tests", "bench")
    found = [page for folder in folders for page in (ROOT / folder).rglob("*.md")]
    return sorted([*ROOT.glob("*.md"), *found])


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_other_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []
