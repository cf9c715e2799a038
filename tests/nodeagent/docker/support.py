"""What tests of nodeagent/docker share: pods, and a recorder that keeps what it is told."""

from typing import Any, Literal

from nodeagent.pods.model import Pod, decode


def pod(name: str = "web", uid: str = "u-1", **container: Any) -> Pod:
    """A pod with the container ``c``."""
    return decode(
        {
            "metadata": {"name": name, "namespace": "default", "uid": uid},
            "spec": {"containers": [{"name": "c", "image": "nginx:1.25", **container}]},
        }
    )


class Notes:
    """``Recorder`` that keeps events as ``(kind, reason, message)``."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    @property
    def reasons(self) -> list[str]:
        """The reasons in order."""
        return [one[1] for one in self.events]

    def pod(
        self, pod: Pod, kind: Literal["Normal", "Warning"], reason: str, message: str,
        container: str = "",
    ) -> None:  # fmt: skip
        """As ``Recorder.pod``."""
        self.events.append((kind, reason, message))

    def node(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """As ``Recorder.node``."""
        self.events.append((kind, reason, message))
