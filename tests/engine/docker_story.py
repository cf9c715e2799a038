"""What Docker told of containers of pods while something went on, in order."""

import json
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.engine.pods import DEADLINE, SANDBOX, PodWorld
from tests.support.netns import eventually


@dataclass(frozen=True, slots=True)
class Line:
    """A container's *action* (``create``, ``start``, ``die`` or ``destroy``), and who it is of.

    *time* is Docker's, in Unix seconds.
    """

    action: str
    id: str
    pod: str
    uid: str
    name: str
    attempt: int
    time: float = 0.0


@dataclass
class Story:
    """The lines so far."""

    lines: list[Line] = field(default_factory=list)

    def of(self, pod: str, name: str = "main") -> list[Line]:
        """Those of one pod's container; all pods that ever had this name count."""
        return [one for one in self.lines if (one.pod, one.name) == (pod, name)]

    def faults(self, *, by_name: bool = False) -> list[str]:
        """Instances that ran beside an earlier one, and attempt numbers that did not grow.

        A number may come again when its instance was taken away by hand before its agent, killed
        then too, could tell anybody of it; that of a sandbox is told to nobody. *by_name*: of
        all pods that ever had a name, one may run at a time.
        """
        found = []
        alive: dict[tuple[str, str], str] = {}
        highest: dict[tuple[str, str], int] = defaultdict(lambda: -1)
        for line in self.lines:
            key = line.pod if by_name else line.uid, line.name
            if line.action == "die" and alive.get(key) == line.id:
                del alive[key]
            elif line.action == "destroy":
                highest[key] = -1 if line.name == SANDBOX else highest[key] - 1
            elif line.action == "start":
                if key in alive:
                    found.append(f"{line.name} of {line.pod} was started while another ran")
                if line.attempt <= highest[key] and not by_name:
                    text = f"{line.attempt} was started after {highest[key]}"
                    found.append(f"{line.name} of {line.pod}: attempt {text}")
                alive[key], highest[key] = line.id, line.attempt
        return found


@contextmanager
def told(world: PodWorld) -> Iterator[Story]:
    """The story from here on, for as long as dockerd lives and the context lasts."""
    story = Story()
    command = ["/usr/bin/docker", "--host", f"unix://{world.root}/run/docker.sock", "events",
               "--format", "{{json .}}", "--filter", "type=container"]  # fmt: skip
    for action in ("create", "start", "die", "destroy"):
        command += ["--filter", f"event={action}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    reader = threading.Thread(target=_read, args=(process, story))
    reader.start()
    try:
        _begin(world, story)
        yield story
    finally:
        process.kill()
        process.wait()
        reader.join()
        if process.stdout is not None:
            process.stdout.close()


def _begin(world: PodWorld, story: Story) -> None:
    """Wait until the stream brings something: before that it may miss things."""
    label = {"io.kubernetes.pod.name": "begin", "io.kubernetes.pod.uid": "begin",
             "io.kubernetes.container.name": "begin",
             "annotation.io.kubernetes.container.restartCount": "0"}  # fmt: skip

    def heard() -> bool:
        made = world.docker(
            "POST", "/containers/create", {"Image": "barenode/busybox:lab", "Labels": label}
        )
        world.docker("DELETE", f"/containers/{made['Id']}")
        return bool(story.of("begin", "begin"))

    eventually(heard, "Docker's events", deadline=DEADLINE, interval=0.05)


def _read(process: "subprocess.Popen[str]", story: Story) -> None:
    for text in process.stdout or ():
        event = json.loads(text)
        labels = event["Actor"]["Attributes"]
        if "io.kubernetes.pod.uid" in labels:
            story.lines.append(
                Line(
                    action=event["Action"],
                    id=event["Actor"]["ID"],
                    pod=labels["io.kubernetes.pod.name"],
                    uid=labels["io.kubernetes.pod.uid"],
                    name=labels["io.kubernetes.container.name"],
                    attempt=int(labels["annotation.io.kubernetes.container.restartCount"]),
                    time=event["timeNano"] / 1e9,
                )
            )
