"""From the book to the chains of both tables, doing again only what changed.

``RulePlanner.chains`` is always what the nat table is to hold. A change of endpoints renders the
leaf chains of the addresses concerned; a change of the set of addresses also renders the chains
whose children changed. What was rendered stays in ``touched`` until the caller says that the
kernel has it, so a failed write is written again with whatever came after it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from netd.services import names
from netd.services.book import Affected, Book
from netd.services.rules import Policy, address_jump, entry_chains, frontend_rules, port_jump
from netd.services.tree import ROOT, Node, keys_in, leaf_of, path_to, shape
from netd.services.values import Frontend

HEAVY = 64
"""Most rules of one address or node port that stay in a leaf which it shares with others."""


@dataclass(slots=True)
class _Tree:
    """One of the two trees: its present shape, and the chains of its heavy keys by leaf."""

    bits: int
    chain: Callable[[Node], str]
    enter: Callable[[Node], str]
    keys: tuple[int, ...] = ()
    shape: dict[Node, tuple[Node, ...]] = field(default_factory=dict)
    heavy: dict[Node, tuple[str, ...]] = field(default_factory=dict)


def _enter_address(node: Node) -> str:
    chain = names.address_chain(node)
    return address_jump(names.address_of(node.value), node.length, chain)


def _enter_ports(node: Node) -> str:
    protocol, low = names.port_of(node.value)
    high = low + (1 << (names.PORT_BITS - node.length)) - 1
    return port_jump(protocol, low, high, names.port_chain(node))


class RulePlanner:
    """The desired nat chains of *book* under *policy*."""

    def __init__(self, book: Book, policy: Policy) -> None:
        self.book = book
        self.policy = policy
        self.chains: dict[str, tuple[str, ...]] = {}
        self.touched: set[str] = set()
        self._addresses = _Tree(names.ADDRESS_BITS, names.address_chain, _enter_address)
        self._ports = _Tree(names.PORT_BITS, names.port_chain, _enter_ports)
        self._enter_policy()

    def set_policy(self, policy: Policy) -> None:
        """Render everything under another policy."""
        if policy != self.policy:
            self.policy = policy
            self.book.touch_all()
            self._enter_policy()

    def update(self) -> Affected:
        """Bring the chains up to date; returns what the book said was affected."""
        affected = self.book.take_affected()
        self._update_tree(
            self._addresses, self.book.addresses, affected.addresses, self.book.at_address
        )
        self._update_tree(
            self._ports, self.book.node_ports, affected.node_ports, self.book.at_node_port
        )
        return affected

    def pending(self) -> dict[str, tuple[str, ...] | None]:
        """The chains that have to be written, with their rules; None for one that has to go."""
        return {name: self.chains.get(name) for name in self.touched}

    def written(self, chains: Mapping[str, tuple[str, ...] | None]) -> None:
        """The kernel has what ``pending`` gave; what has changed since stays touched."""
        self.touched -= {name for name, rules in chains.items() if self.chains.get(name) == rules}

    def address_path(self, key: int) -> list[str]:
        """The chains on the way to the rules of an address, root first."""
        return self._path(self._addresses, key)

    def node_port_path(self, key: int) -> list[str]:
        """The chains on the way to the rules of a node port, root first."""
        return self._path(self._ports, key)

    # --- inside ---

    def _enter_policy(self) -> None:
        for name, rules in entry_chains(self.policy).items():
            self._put(name, rules)

    def _update_tree(
        self,
        tree: _Tree,
        keys: Sequence[int],
        touched: Collection[int],
        frontends: Callable[[int], list[Frontend]],
    ) -> None:
        dirty: set[Node] = set()
        present = tuple(keys)
        if present != tree.keys or not tree.shape:
            before, tree.keys = tree.shape, present
            tree.shape = shape(present, tree.bits)
            for node in before.keys() - tree.shape.keys():
                self._drop(tree, node)
            dirty.update(n for n, below in tree.shape.items() if before.get(n) != below)
        for key in touched:
            leaf = leaf_of(tree.shape, key, tree.bits)
            if leaf is not None:
                dirty.add(leaf)
        leaves = [node for node in dirty if not tree.shape[node]]
        # Before the leaves: a heavy key's chain may pass from a node that was split to its child.
        for node in dirty.difference(leaves):
            self._drop_heavy(tree, node)
            self._put(tree.chain(node), tuple(tree.enter(child) for child in tree.shape[node]))
        for node in leaves:
            self._render_leaf(tree, node, frontends)

    def _render_leaf(
        self, tree: _Tree, node: Node, frontends: Callable[[int], list[Frontend]]
    ) -> None:
        rules: list[str] = []
        heavy: list[str] = []
        for key in keys_in(node, tree.keys, tree.bits):
            own = [rule for one in frontends(key) for rule in frontend_rules(one, self.policy)]
            if len(own) > HEAVY:
                alone = Node(key, tree.bits)
                heavy.append(tree.chain(alone))
                self._put(heavy[-1], tuple(own))
                own = [tree.enter(alone)]
            rules += own
        for name in tree.heavy.pop(node, ()):
            if name not in heavy:
                self._remove(name)
        if heavy:
            tree.heavy[node] = tuple(heavy)
        self._put(tree.chain(node), tuple(rules))

    def _path(self, tree: _Tree, key: int) -> list[str]:
        path = path_to(tree.shape, key, tree.bits) if tree.shape else [ROOT]
        found = [tree.chain(node) for node in path]
        alone = tree.chain(Node(key, tree.bits))
        if alone in tree.heavy.get(path[-1], ()):
            found.append(alone)
        return found

    def _put(self, name: str, rules: tuple[str, ...]) -> None:
        if self.chains.get(name) != rules:
            self.chains[name] = rules
            self.touched.add(name)

    def _remove(self, name: str) -> None:
        if self.chains.pop(name, None) is not None:
            self.touched.add(name)

    def _drop(self, tree: _Tree, node: Node) -> None:
        self._drop_heavy(tree, node)
        self._remove(tree.chain(node))

    def _drop_heavy(self, tree: _Tree, node: Node) -> None:
        for name in tree.heavy.pop(node, ()):
            self._remove(name)
