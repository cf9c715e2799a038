"""What the server needs of the rest of the agent, and its settings."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hostkit.config import Settings
from nodeagent.config import cert_dir
from nodeagent.docker.api import Engine
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import PodSeen


class ServerParts(Protocol):
    """The rest of the agent."""

    @property
    def engine(self) -> Engine:
        """Docker: for logs and commands."""
        ...

    @property
    def node_name(self) -> str:
        """The Node object's name."""
        ...

    def names(self) -> tuple[str, ...]:
        """Host names and addresses under which this node is reached, for its certificate."""
        ...

    def pods(self) -> list[dict[str, Any]]:
        """All pods of this node as API objects, with the status that nodeagent gave them."""
        ...

    def find(self, namespace: str, name: str) -> tuple[Pod, PodSeen] | None:
        """A pod and its containers; a static pod is found by the name of its mirror."""
        ...

    def observed(self) -> Iterable[tuple[Pod, PodSeen]]:
        """All pods with their containers, for figures and /runningpods."""
        ...

    def healthz(self) -> list[str]:
        """What hangs; empty when the agent is alive."""
        ...

    def metrics(self) -> bytes:
        """The agent's own metrics, in Prometheus' text format."""
        ...


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How to serve. Times are seconds; a *read_only_port* of 0 is none, *port* 0 any free one.

    Empty *cert_file* and *key_file* mean a certificate of our own in *cert_dir*; *root_dir* is on
    the file system that the figures speak of. *client_ca* is a file, "" for no client
    certificates.
    """

    cert_dir: Path
    root_dir: Path
    enabled: bool = True
    address: str = "127.0.0.1"
    port: int = 10250
    read_only_port: int = 0
    cert_file: str = ""
    key_file: str = ""
    tls13_only: bool = False
    client_ca: str = ""
    anonymous: bool = False
    token_reviews: bool = True
    token_ttl: float = 120.0
    always_allow: bool = False
    allowed_ttl: float = 300.0
    denied_ttl: float = 30.0
    debugging: bool = True


def server_settings(settings: Settings) -> ServerSettings:
    """From nodeagent's settings."""
    return ServerSettings(
        cert_dir=cert_dir(settings),
        root_dir=Path(settings["root-dir"]),
        enabled=settings["enable-server"],
        address=settings["address"],
        port=settings["port"],
        read_only_port=settings["read-only-port"] if settings["enable-server"] else 0,
        cert_file=settings["tls-cert-file"],
        key_file=settings["tls-private-key-file"],
        tls13_only=settings["tls-min-version"] == "VersionTLS13",
        client_ca=settings["client-ca-file"],
        anonymous=settings["anonymous-auth"],
        token_reviews=settings["authentication-token-webhook"],
        token_ttl=settings["authentication-token-webhook-cache-ttl"],
        always_allow=settings["authorization-mode"] == "AlwaysAllow",
        allowed_ttl=settings["authorization-webhook-cache-authorized-ttl"],
        denied_ttl=settings["authorization-webhook-cache-unauthorized-ttl"],
        debugging=settings["enable-debugging-handlers"],
    )
