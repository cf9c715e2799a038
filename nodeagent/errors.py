"""What nodeagent raises; the messages are fit for an operator."""

from hostkit.errors import HostkitError


class NodeAgentError(HostkitError):
    """Base of nodeagent's own errors."""


class PodError(NodeAgentError):
    """A pod cannot go on at the moment, or never.

    ``reason`` is the CamelCase word for an event and a container's waiting state, such as
    ``CreateContainerConfigError``; ``final`` says that trying again cannot help.
    """

    def __init__(self, reason: str, message: str, *, final: bool = False) -> None:
        self.reason = reason
        self.message = message
        self.final = final
        super().__init__(message)


class EngineError(NodeAgentError):
    """Docker refused a call: ``status`` is the HTTP status, 0 when there was none."""

    def __init__(self, message: str, status: int = 0) -> None:
        self.status = status
        super().__init__(message)


class EngineNotFound(EngineError):  # noqa: N818 - names the state, not the fault
    """404: no such container, image or exec."""


class EngineConflict(EngineError):  # noqa: N818 - names the state, not the fault
    """409: the name is taken, or the container's state does not allow it."""


class EngineUnavailable(EngineError):  # noqa: N818 - names the state, not the fault
    """Docker does not answer, or not in time: the call may still be carried out."""
