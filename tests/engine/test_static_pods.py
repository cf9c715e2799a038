"""Pods of manifest files: as files come, change, break and go, with and without the API server."""

import contextlib
import json
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.docker_story import told
from tests.engine.pods import (
    DEADLINE,
    IMAGE,
    LOOK,
    NODE,
    ApiError,
    PodWorld,
    Raw,
    sleeper,
    status_of,
)
from tests.support.netns import eventually

MANIFESTS = "etc/kubernetes/manifests"
MIRROR = "kubernetes.io/config.mirror"
AGENT = Path(sys.executable).with_name("nodeagent")
TERM_LATE = "trap 'sleep 1; exit 0' TERM; while :; do sleep 1000 & wait; done"


def manifest(name: str, color: str = "red", **spec: object) -> str:
    """A pod whose container sleeps, and takes a second to end."""
    main = sleeper(command=["sh", "-c", TERM_LATE], env=[{"name": "COLOR", "value": color}])
    whole = {"terminationGracePeriodSeconds": 20, "containers": [main], **spec}
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": whole}
    return json.dumps(document, indent=1)


def quick(name: str, color: str = "red") -> str:
    """The same, ending at once."""
    main = sleeper(env=[{"name": "COLOR", "value": color}])
    return manifest(name, containers=[main])


def shown(name: str) -> str:
    """The name under which a static pod is known everywhere but in its file."""
    return f"{name}-{NODE}"


def seen(pods: PodWorld) -> None:
    """Wait until all that was done to the folder so far was looked at: a last file has its pod."""
    pods.manifest("zz-last.json", quick("last"))
    alive(pods, "last")
    pods.remove_manifest("zz-last.json")
    eventually(lambda: not pods.containers(shown("last")), "it is gone again", deadline=DEADLINE)


def alive(pods: PodWorld, name: str, color: str = "") -> str:
    """Wait until the pod's one container runs, with that color in its environment; its ID."""

    def running() -> str:
        found = [one for one in pods.containers(shown(name), "main") if one["State"] == "running"]
        if len(found) != 1:
            return ""
        if color:
            with contextlib.suppress(ApiError):
                document = pods.docker("GET", f"/containers/{found[0]['Id']}/json")
                return found[0]["Id"] if f"COLOR={color}" in document["Config"]["Env"] else ""
            return ""
        return str(found[0]["Id"])

    return eventually(running, f"static pod {name} {color} runs", deadline=DEADLINE, interval=LOOK)


def errors(pods: PodWorld) -> dict[str, dict[int, str]]:
    """What nodeagent says is wrong in the manifests, by file and line."""
    return by_file(pods.agent())


def by_file(status: Raw) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for one in status["manifests"]["errors"]:
        found.setdefault(one["file"], {})[one["line"]] = one["text"]
    return found


def test_a_manifest_brings_a_pod_and_its_mirror_and_takes_both_along(pods: PodWorld) -> None:
    pods.manifest("web.json", manifest("web"))
    mirror = pods.ready(shown("web"))
    assert mirror["metadata"]["annotations"]["kubernetes.io/config.source"] == "file"
    assert [one["kind"] for one in mirror["metadata"]["ownerReferences"]] == ["Node"]
    assert pods.exec(shown("web"), "main", "hostname").strip() == shown("web")
    labels = pods.container(shown("web"))["Config"]["Labels"]
    assert labels["io.kubernetes.pod.uid"] == mirror["metadata"]["annotations"][MIRROR]
    pods.remove_manifest("web.json")
    pods.gone(shown("web"))


def test_of_a_changed_manifest_the_old_pod_is_gone_before_the_new_one_starts(
    pods: PodWorld,
) -> None:
    pods.manifest("web.json", manifest("web"))
    old = pods.ready(shown("web"))["metadata"]["annotations"][MIRROR]
    with told(pods) as story:
        pods.manifest("web.json", manifest("web", "blue"))
        alive(pods, "web", "blue")
        new = pods.wait(
            shown("web"), lambda pod: pod["metadata"]["annotations"][MIRROR] != old, "a new mirror"
        )["metadata"]["annotations"][MIRROR]

        def lines_of() -> list[tuple[str, str]]:
            return [(one.uid, one.action) for one in story.lines if one.pod == shown("web")]

        # Docker's events may come later than its list shows what they tell.
        eventually(lambda: (new, "create") in lines_of(), "the new one's create", deadline=DEADLINE)
        lines = lines_of()
        assert lines.index((new, "create")) > max(
            index for index, (uid, _) in enumerate(lines) if uid == old
        ), lines
        assert [one.action for one in story.of(shown("web")) if one.uid == old] == [
            "die", "destroy",
        ]  # fmt: skip
    status = status_of(pods.ready(shown("web")))
    assert status["restartCount"] == 0


def test_a_renamed_or_reformatted_manifest_changes_nothing(pods: PodWorld) -> None:
    pods.manifest("web.json", manifest("web"))
    pods.ready(shown("web"))
    before = alive(pods, "web")
    pods.manifest("other.yaml", "# the same again\n" + manifest("web").replace("\n", "\n\n"))
    pods.remove_manifest("web.json")
    seen(pods)
    assert alive(pods, "web") == before
    folder = pods.root / MANIFESTS
    (folder / "other.yaml").rename(folder / "third.yaml")
    pods.remove_manifest("other.yaml")
    try:
        seen(pods)
        assert alive(pods, "web") == before
        assert errors(pods) == {}
    finally:
        pods.remove_manifest("third.yaml")
    pods.gone(shown("web"))


def test_a_half_written_manifest_is_left_alone_until_it_is_whole(pods: PodWorld) -> None:
    """What is there so far is a whole pod, of one container: not even that is begun."""
    path = pods.root / MANIFESTS / "half.yaml"
    first = f"""\
apiVersion: v1
kind: Pod
metadata: {{name: half}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: main, image: {IMAGE}, command: [sleep, "1000"]}}
"""
    with told(pods) as story:
        try:
            with path.open("w") as file:
                file.write(first)
                file.flush()
                seen(pods)
                assert pods.containers(shown("half")) == []
                assert errors(pods) == {}
                file.write(first.splitlines()[-1].replace("main", "second") + "\n")
            alive(pods, "half")
            eventually(
                lambda: all(len(story.of(shown("half"), one)) >= 2 for one in ("main", "second")),
                "both were started", deadline=DEADLINE,
            )  # fmt: skip
            names = [one.name for one in story.lines if one.pod == shown("half")]
            assert names.count("main") == 2, "created and started once"
        finally:
            path.unlink()
            pods.gone(shown("half"))


@pytest.mark.parametrize("grace", [0, None])
def test_a_deleted_mirror_comes_back_and_the_pod_does_not_notice(
    pods: PodWorld, grace: int | None
) -> None:
    pods.manifest("web.json", manifest("web"))
    old = pods.ready(shown("web"))["metadata"]["uid"]
    before = alive(pods, "web")
    pods.delete(shown("web"), grace)
    pods.wait(shown("web"), lambda pod: pod["metadata"]["uid"] != old, "a new mirror")
    pods.ready(shown("web"))
    assert alive(pods, "web") == before


BROKEN = {
    "syntax.yaml": ("apiVersion: v1\nkind: Pod\nmetadata: {name: a\nspec: {}\n", 4, "no YAML"),
    "kind.yaml": ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n", 2, "Deployment"),
    "twice.json": (manifest("good"), 1, "good"),
    "field.yaml": ("# a comment\napiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n"
                   "  containers: []\n", 7, "spec.containers"),
    "empty.yaml": ("", 0, "no pod"),
}  # fmt: skip
"""What is in a file, in which line something is wrong, and a word that must be said of it."""


def test_broken_manifests_are_named_with_file_and_line_while_others_run(pods: PodWorld) -> None:
    pods.manifest("good.json", manifest("good"))
    good = alive(pods, "good")
    for name, (text, _, _) in BROKEN.items():
        pods.manifest(name, text)
    loop = pods.root / MANIFESTS / "loop.yaml"
    loop.symlink_to("loop.yaml")
    try:
        wanted = {"loop.yaml", *BROKEN}
        found = eventually(
            lambda: (now := errors(pods)).keys() >= wanted and now, f"{wanted} are named",
            deadline=DEADLINE, interval=LOOK,
        )  # fmt: skip
        assert isinstance(found, dict)
        for name, (_, line, word) in BROKEN.items():
            assert word in found[name].get(line, ""), (name, found[name])
        assert "loop" in found["loop.yaml"][0]
        printed = by_file(json.loads(pods.node_run(str(AGENT), "status", "--json")))
        assert printed == found
        assert alive(pods, "good") == good
        pods.manifest("more.json", manifest("more"))
        alive(pods, "more")
    finally:
        loop.unlink()
    for name in BROKEN:
        pods.remove_manifest(name)
    eventually(lambda: errors(pods) == {}, "all is well again", deadline=DEADLINE, interval=LOOK)


def test_a_manifest_that_is_broken_by_a_change_leaves_its_pod_as_it_was(pods: PodWorld) -> None:
    pods.manifest("web.json", quick("web"))
    before = alive(pods, "web")
    pods.manifest("web.json", quick("web", "blue")[:-20])
    eventually(lambda: "web.json" in errors(pods), "it is named", deadline=DEADLINE)
    assert alive(pods, "web") == before
    pods.manifest("web.json", quick("web", "blue"))
    assert alive(pods, "web", "blue") != before
    eventually(lambda: errors(pods) == {}, "nothing is wrong", deadline=DEADLINE)


@contextlib.contextmanager
def no_api(pods: PodWorld) -> Iterator[None]:
    """The node cannot reach the API server; connections that are open break too."""
    rule = ["OUTPUT", "--destination", pods.spec.fabric.address, "--protocol", "tcp",
            "--dport", "8080", "--jump", "REJECT", "--reject-with", "tcp-reset"]  # fmt: skip
    pods.node_run("iptables", "--wait", "--insert", *rule)
    try:
        yield
    finally:
        pods.node_run("iptables", "--wait", "--delete", *rule)


def test_static_pods_need_no_api_server_not_even_when_nodeagent_begins(pods: PodWorld) -> None:
    pods.manifest("first.json", quick("first"))
    pods.ready(shown("first"))
    before = alive(pods, "first")
    with no_api(pods):
        pods.manifest("second.json", quick("second"))
        alive(pods, "second")
        pid = pods.agent()["pid"]
        pods.node_run("kill", "-KILL", str(pid))
        pods.manifest("third.json", quick("third"))
        alive(pods, "third")
        assert pods.agent()["pid"] != pid
        pods.remove_manifest("second.json")
        eventually(
            lambda: not pods.containers(shown("second")), "second is gone", deadline=DEADLINE
        )
        assert alive(pods, "first") == before
        assert pods.find(shown("third")) is None
    pods.ready(shown("third"))
    pods.gone(shown("second"))
    assert alive(pods, "first") == before


class Folder:
    """Manifests that come, change, move and go by chance; *wanted* maps pods to their color."""

    NAMES = ("a", "b", "c")

    def __init__(self, pods: PodWorld, chance: random.Random) -> None:
        self.pods = pods
        self.chance = chance
        self.wanted: dict[str, str] = {}
        self.files: dict[str, str] = {}

    def step(self) -> None:
        """One thing happens to one file."""
        name = self.chance.choice(self.NAMES)
        what = self.chance.choice(("write", "write", "remove", "rename", "in place"))
        if what in {"write", "in place"} or name not in self.files:
            self.wanted[name] = color = self.chance.choice(("red", "green", "blue"))
            file = self.files.setdefault(name, f"{name}.json")
            if what == "in place":
                (self.pods.root / MANIFESTS / file).write_text(quick(name, color))
            else:
                self.pods.manifest(file, quick(name, color))
        elif what == "remove":
            self.pods.remove_manifest(self.files.pop(name))
            del self.wanted[name]
        else:
            folder, old = self.pods.root / MANIFESTS, self.files[name]
            new = f"{name}-{self.chance.randint(1, 9)}.json"
            (folder / old).rename(folder / new)
            self.files[name] = new


def test_files_that_change_without_end_while_docker_is_busy(pods: PodWorld) -> None:
    """In the end the pods are those of the files; of none, two instances ever ran at a time."""
    folder = Folder(pods, random.Random(5))
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            pods.node_run("docker", "run", "--rm", "--network", "none", IMAGE, "true")

    busy = threading.Thread(target=churn)
    busy.start()
    try:
        with told(pods) as story:
            for _ in range(40):
                folder.step()
                stop.wait(folder.chance.random() * 0.2)
            for name in folder.NAMES:
                if name in folder.wanted:
                    alive(pods, name, folder.wanted[name])
                else:
                    pods.gone(shown(name))
            assert story.faults(by_name=True) == []
    finally:
        stop.set()
        busy.join()
        for file in folder.files.values():
            pods.remove_manifest(file)
        for name in folder.NAMES:
            pods.gone(shown(name))
