"""What is on the node of pods that nobody wants, or twice: nothing may be, whatever was killed."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.engine.pods import DEADLINE, SANDBOX, PodWorld, Raw, attempt_of
from tests.support.netns import eventually

MIRROR = "kubernetes.io/config.mirror"
PODS = "var/lib/kubelet/pods"
_UID = r"([0-9a-f][0-9a-f-]{30,})"


def wanted(world: PodWorld) -> dict[str, Raw]:
    """The pods of the API server by the UID that the node knows them by."""
    found = world.api("GET", "/api/v1/pods")["items"]
    return {
        pod["metadata"].get("annotations", {}).get(MIRROR) or pod["metadata"]["uid"]: pod
        for pod in found
    }


def containers(world: PodWorld) -> list[Raw]:
    """All containers of pods, as Docker lists them, dead ones too."""
    found: list[Raw] = world.docker(
        "GET", '/containers/json?all=1&filters={"label":["barenode.nodeagent=1"]}'
    )
    return found


def faults(world: PodWorld) -> list[str]:
    """All that is wrong on the node, in words."""
    pods = wanted(world)
    entries = containers(world)
    there = {one["Id"] for one in entries}
    return [*_of_docker(pods, entries), *_left(world, set(pods)), *_strays(world, there)]


def clean(world: PodWorld) -> None:
    """Wait until nothing is wrong; AssertionError says what stays so."""
    last: list[str] = []

    def look() -> bool:
        try:
            last[:] = faults(world)
        except FileNotFoundError as error:  # a group or folder went while it was looked into
            last[:] = [str(error)]
        return not last

    try:
        eventually(look, "nothing is left over or there twice", deadline=DEADLINE, interval=0.1)
    except AssertionError as error:
        raise AssertionError(f"{error}: {last}") from error


def _of_docker(pods: dict[str, Raw], entries: list[Raw]) -> Iterator[str]:
    """Orphans, duplicates, and restart counts that are not the newest attempt's."""
    running: Counter[tuple[str, str]] = Counter()
    attempts: dict[tuple[str, str], list[int]] = {}
    for one in entries:
        labels = one["Labels"]
        uid, name = labels["io.kubernetes.pod.uid"], labels["io.kubernetes.container.name"]
        if uid not in pods:
            yield f"{one['Names'][0]} is an orphan"
        attempts.setdefault((uid, name), []).append(attempt_of(one))
        running[uid, name] += one["State"] == "running"
    for (uid, name), numbers in attempts.items():
        if running[uid, name] > 1:
            yield f"{name} of {uid} runs {running[uid, name]} times"
        if len(set(numbers)) != len(numbers):
            yield f"{name} of {uid} has an attempt number twice: {numbers}"
    for uid, pod in pods.items():
        for status in pod["status"].get("containerStatuses", ()):
            found = attempts.get((uid, status["name"]))
            if found and status["restartCount"] != max(found):
                count = status["restartCount"]
                yield f"{pod['metadata']['name']}: restartCount {count}, attempts {found}"
        if pod["status"].get("phase") == "Running" and running[uid, SANDBOX] != 1:
            yield f"{pod['metadata']['name']} runs with {running[uid, SANDBOX]} sandboxes"


def _left(world: PodWorld, known: set[str]) -> Iterator[str]:
    """Folders, mounts and control groups of pods that are gone."""
    folder = world.root / PODS
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name not in known:
            yield f"folder {entry.name}"
    text = (world.root / "proc/1/mountinfo").read_text()
    for uid in set(re.findall(rf" /{PODS}/{_UID}", text)) - known:
        yield f"a mount of {uid}"
    for group in _groups(world):
        if group.name.removeprefix("pod") not in known:
            yield f"control group {group.relative_to(world.root)}"


def _strays(world: PodWorld, there: set[str]) -> Iterator[str]:
    """Processes of containers that Docker has forgotten."""
    for group in _groups(world):
        for procs in group.glob("*/cgroup.procs"):
            try:
                text = procs.read_text()
            except OSError:  # ENODEV and ENOENT: the group went meanwhile
                continue
            if text.strip() and procs.parent.name not in there:
                yield f"processes in {procs.parent.relative_to(world.root)}"


def _groups(world: PodWorld) -> Iterator[Path]:
    """The control groups of pods, in all hierarchies."""
    root = world.root / "sys/fs/cgroup"
    for tree in (root, *root.iterdir()):
        if (tree / "kubepods").is_dir() and not tree.is_symlink():
            yield from (tree / "kubepods").glob("**/pod*")
