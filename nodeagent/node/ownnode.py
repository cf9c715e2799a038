"""The own Node, as the newest answer or event of the API server has it."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from hostkit.kube.listwatch import Changed, Listed
from nodeagent.node.api import NoObject, decode
from nodeagent.node.status import part

log = logging.getLogger(__name__)

Node = Mapping[str, Any]


class OwnNode:
    """Holds the Node *name*, from answers to our writes (``put``) and its watch (``take``).

    *on_change* hears the Node before (None at first) and after. ``stale`` says that the watch
    told something that does not fit, so that the Node has to be read from etcd.
    """

    def __init__(self, name: str, on_change: Callable[[Node | None, Node], None]) -> None:
        self._name = name
        self._on_change = on_change
        self.node: Node | None = None
        self.stale = False

    @property
    def uid(self) -> str:
        """The Node's UID, "" while it is not known."""
        return str(part(self.node or {}, "metadata").get("uid") or "")

    @property
    def status(self) -> Mapping[str, Any]:
        """Its status, empty while it is not known."""
        return part(self.node or {}, "status")

    def put(self, node: Node) -> None:
        """Take the answer to a read or write of ours."""
        before, self.node = self.node, node
        self.stale = False
        self._on_change(before, node)

    def drop(self) -> None:
        """The Node is gone."""
        if self.node is not None:
            log.warning("node %s is no longer at the API server", self._name)
        self.node, self.stale = None, False

    def take(self, item: Listed | Changed) -> None:
        """Take what the watch tells; nothing before ``put`` was called."""
        known = self.node
        if known is None:
            return
        try:
            found = self._ours(item)
        except NoObject as error:
            log.debug("%s", error)
            self.stale = True
            return
        if isinstance(item, Listed):
            # It may be older than what we wrote since, or come from a restored backup.
            if found is None or not _newer(found, known):
                self.stale = True
            else:
                self.put(found)
        elif found is not None and item.kind == "DELETED":
            if part(found, "metadata").get("uid") == part(known, "metadata").get("uid"):
                self.drop()
        elif found is not None and _newer(found, known):
            self.put(found)

    def _ours(self, item: Listed | Changed) -> Node | None:
        for raw in item.items if isinstance(item, Listed) else [item.object]:
            node = decode(raw, "the watch of nodes")
            if part(node, "metadata").get("name") == self._name:
                return node
        return None


def _newer(node: Node, known: Node) -> bool:
    """Whether *node* is not older than *known*; versions are etcd's revisions everywhere."""
    new, old = (str(part(one, "metadata").get("resourceVersion")) for one in (node, known))
    return not (new.isdecimal() and old.isdecimal()) or int(new) >= int(old)


def same_wishes(node: Node, other: Node) -> bool:
    """Whether both say the same of what pods are admitted by."""
    return _wishes(node) == _wishes(other)


def _wishes(node: Node) -> list[object]:
    meta, status = part(node, "metadata"), part(node, "status")
    return [
        meta.get("labels"), meta.get("annotations"), node.get("spec"), status.get("allocatable"),
    ]  # fmt: skip
