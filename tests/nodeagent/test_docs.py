"""The operator's reference and the READMEs of nodeagent tell the truth about the code."""

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hostkit.config import Option, show
from nodeagent.__main__ import COMMANDS
from nodeagent.config import OPTIONS
from nodeagent.node.pressure import SIGNALS
from nodeagent.node.status import transitions
from nodeagent.statusview import sections

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "nodeagent"
REFERENCE = (ROOT / "docs" / "nodeagent.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
VISIBLE = [option for option in OPTIONS if not option.hidden]
ROWS = dict(re.findall(r"^\| `--([a-z0-9-]+)` \| (.*?) \| ", REFERENCE, re.MULTILINE))
"""Flag name to the text in the default column."""
SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {path: ast.parse(text) for path, text in SOURCES.items()}
REASON = re.compile(r"[A-Z][a-zA-Z]+")


def documented(option: Option) -> str:
    """The default as the reference writes it."""
    if option.default in ("", (), None):
        return "none"
    return f"`{show(option.default)}`"


def section(title: str) -> str:
    """The part of the reference under a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", REFERENCE, re.M | re.S)
    assert found is not None, title
    return found[1]


def words(text: str) -> set[str]:
    """What a text has between backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def calls(names: set[str], owner: Callable[[str], bool]) -> Iterator[ast.Call]:
    """Calls of methods called *names* on what *owner* accepts, as it is written."""
    for tree in TREES.values():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in names
                and owner(ast.unparse(node.func.value))
            ):
                yield node


def constants(node: ast.AST) -> Iterator[str]:
    """The texts that an expression may be, of conditional ones both."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from constants(node.body)
        yield from constants(node.orelse)


# --- flags ---


@pytest.mark.parametrize("option", VISIBLE, ids=lambda option: option.name)
def test_every_flag_is_in_the_reference_with_its_default(option: Option) -> None:
    assert ROWS.get(option.name) == documented(option)


@pytest.mark.parametrize("option", VISIBLE, ids=lambda option: option.name)
def test_every_flag_that_is_shown_is_used(option: Option) -> None:
    """One that nothing reads would be ignored silently."""
    quoted = f'"{option.name}"'
    declared = re.compile(rf"Option\(\s*{quoted}")
    uses = sum(text.count(quoted) - len(declared.findall(text)) for text in SOURCES.values())
    assert uses > 0


def test_the_reference_names_no_flag_that_does_not_exist() -> None:
    assert ROWS.keys() == {option.name for option in VISIBLE}
    named = set(re.findall(r"`--([a-z0-9-]+)", REFERENCE))
    assert named <= {option.name for option in OPTIONS}


def test_every_signal_of_eviction_is_in_the_reference() -> None:
    assert {signal for signal in SIGNALS if signal not in REFERENCE} == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_reference(command: str) -> None:
    assert re.search(rf"^nodeagent \[?{command}\]? ", REFERENCE, re.MULTILINE)


# --- metrics ---


OWN = {"events", "status_writes", "status_write_duration_seconds"}
"""Metrics of parts that are given the agent's own, which the kubelet does not have."""


def exposed() -> dict[str, set[str]]:
    """Every metric that the code makes, by name, with its labels."""
    found: dict[str, set[str]] = {}
    makers = {"counter": "_total", "gauge": "", "histogram": ""}
    for call in calls(set(makers), lambda owner: "metrics" in owner or "kubelet" in owner):
        assert isinstance(call.func, ast.Attribute)
        owner, kind = ast.unparse(call.func.value), call.func.attr
        prefix = "kubelet"
        if "under('prober')" in owner:
            prefix = "prober"
        elif next(constants(call.args[0])) in OWN:
            prefix = "nodeagent"
        texts = [text for one in call.args[2:] for text in constants(one)]
        if any(isinstance(one, ast.Name) and one.id == "kind" for one in call.args[2:]):
            texts.append("operation_type")
        name = f"{prefix}_{next(constants(call.args[0]))}{makers[kind]}"
        found[name] = set(texts)
    return found


def test_every_metric_is_in_the_reference_with_its_labels_and_no_other() -> None:
    rows = re.findall(
        r"^\| `((?:nodeagent|kubelet|prober)_\w+)(?:\{([\w,]+)\})?` \|", REFERENCE, re.M
    )
    assert {name: set(filter(None, labels.split(","))) for name, labels in rows} == exposed()


# --- what is shown ---


def keys(function: Callable[..., object]) -> set[str]:
    """The keys of the document that a function returns."""
    path = PACKAGE / f"{function.__module__.removeprefix('nodeagent.').replace('.', '/')}.py"
    body = next(
        node
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.FunctionDef) and node.name == function.__name__
    )
    returned = next(node for node in ast.walk(body) if isinstance(node, ast.Return))
    assert isinstance(returned.value, ast.Dict)
    return {text for key in returned.value.keys if key for text in constants(key)}


def test_every_section_of_the_status_document_is_in_the_reference() -> None:
    table = section("Status document")
    shown = {name for row in re.findall(r"^\| (.*?) \|", table, re.M) for name in words(row)}
    assert keys(sections) <= shown


def events() -> set[str]:
    """The reasons of events that stand in the code where they are recorded or raised."""
    found: set[str] = set()
    for call in calls({"pod", "node"}, lambda owner: owner.endswith("recorder")):
        place = 2 if isinstance(call.func, ast.Attribute) and call.func.attr == "pod" else 1
        found |= set(constants(call.args[place])) if len(call.args) > place else set()
    for call in calls({"_record"}, lambda owner: owner == "self"):
        found |= {text for one in call.args[2:3] for text in constants(one)}
    for call in calls({"give_up"}, lambda _owner: True):
        found |= {text for one in call.args[:1] for text in constants(one)}
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"Refusal", "PodError"}:
                found |= {text for one in node.args[:1] for text in constants(one)}
    return {reason for reason in found if REASON.fullmatch(reason)}


WAITING = {
    # Reasons of containers that wait: their event is Failed, or of another name.
    "ContainerRuntimeError", "CreateContainerConfigError", "CreateContainerError", "ErrImagePull",
    "InvalidImageName",
    # Told in the log alone: the deletion is tried again.
    "FailedDelete",
}  # fmt: skip


def test_every_reason_of_an_event_is_in_the_reference() -> None:
    found = events() - WAITING
    assert {"BackOff", "Pulling", "Rebooted", "Evicted", "NodePorts", "NodeError"} <= found
    listed = words(section("Events")) | words(section("What is refused, and how it shows"))
    assert found - listed == set()


def test_every_event_of_a_condition_is_in_the_reference() -> None:
    kinds = [*dict.fromkeys(SIGNALS.values()), "Ready"]
    reasons = {
        reason
        for status in ("True", "False")
        for kind in kinds
        for reason, _ in transitions(
            {}, {"conditions": [{"type": kind, "status": status, "message": ""}]}
        )
    }
    assert reasons - words(section("Events")) == set()


def problem_keys() -> set[str]:
    """The keys of problems that stand in the code; of a composed one its beginning."""
    found: set[str] = set()
    methods = {"set", "update", "clear", "replace_group", "_attempt"}
    for call in calls(methods, lambda owner: owner.endswith("problems") or owner == "self"):
        first = call.args[0] if call.args else ast.Constant(0)
        if isinstance(first, ast.JoinedStr):
            first = first.values[0]
        found |= {text.strip() for text in constants(first)}
    return found


def test_every_problem_is_in_the_reference_and_no_other() -> None:
    table = section("Problems and what to do")
    rows = re.findall(r"^\| (`.*?) \|", table, re.M)
    listed = {re.sub(r" (NAME|NAMESPACE/NAME)$", "", name) for row in rows for name in words(row)}
    # "healthz" is hostkit's.
    assert listed == problem_keys() | {"healthz"}


# --- READMEs ---

FOLDERS = [PACKAGE, *sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_file_is_in_the_tour_of_its_folder_and_no_other(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    tour = re.search(r"^## Files\n(.*?)(?=^## )", text, re.M | re.S)
    assert tour is not None
    rows = re.findall(r"^\| (`.*?) \|", tour[1], re.M)
    listed = {name for row in rows for name in words(row)}
    assert listed == {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    assert "## When things fail" in text


def pure() -> set[str]:
    """The modules that import-linter keeps pure."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    return next(set(one["source_modules"]) for one in contracts if "pure" in one["name"])


def test_every_pure_module_is_in_the_architectures_list_and_in_its_tour() -> None:
    rows = dict(re.findall(r"^\| `(nodeagent\.\w+)` \| (`.*) \|$", ARCHITECTURE, re.M))
    listed = {f"{package}.{name}" for package, row in rows.items() for name in words(row)}
    wanted = {name for name in pure() if name.startswith("nodeagent.")}
    assert listed == wanted
    for name in wanted:
        _, package, module = name.split(".")
        tour = (PACKAGE / package / "README.md").read_text(encoding="utf-8")
        row = next(row for row in tour.splitlines() if f"`{module}.py`" in row)
        assert "pure" in row, name


# --- unit ---


def unit(name: str) -> dict[str, list[str]]:
    """The settings of a unit file; of each name all values."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "systemd" / name).read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_starts_after_docker_and_netd_and_requires_neither() -> None:
    found = unit("nodeagent.service")
    after = " ".join(found["After"]).split()
    assert {"docker.service", "netd.service"} <= set(after)
    assert "docker.service" in " ".join(found["Wants"]).split()
    assert not {"Requires", "BindsTo", "PartOf", "Requisite"} & found.keys()


def test_the_unit_reports_readiness_and_leaves_containers_when_it_ends() -> None:
    found = unit("nodeagent.service")
    assert found["Type"] == ["notify"]
    assert found["Restart"] == ["on-failure"]
    assert found["KillMode"] == ["process"]
    assert int(found["WatchdogSec"][0]) >= 30


def test_the_unit_has_nothing_that_hides_mounts_from_docker() -> None:
    """systemd.exec(5): each of these gives the service a mount namespace of its own."""
    hiding = re.compile(
        r"Private|Protect|ReadWritePaths|ReadOnlyPaths|InaccessiblePaths|BindPaths|TemporaryFile"
        r"System|RootDirectory|RootImage|MountFlags|DynamicUser"
    )
    # These work by capabilities, system calls and a namespace of the host's name alone.
    harmless = {"ProtectClock", "ProtectHostname"}
    assert {key for key in unit("nodeagent.service") if hiding.match(key)} <= harmless


def test_netds_unit_comes_before_docker_and_is_not_required_by_it() -> None:
    found = unit("netd.service")
    assert found["Before"] == ["docker.service"]
    assert found["Type"] == ["notify"]
    assert "RequiredBy" not in found
