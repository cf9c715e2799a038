"""Which chain holds the rules of which address or port: a tree over the keys' leading bits.

A packet for an address that is no service should cost the same whether there are ten services
or ten thousand, and a change should touch one small chain. So keys (addresses of 32 bits, node
ports of 18) are split by two bits a level until at most ``LEAF`` keys are left; levels at which
all keys agree are left out. The shape is a function of the set of keys alone: the order of
arrival leaves no trace, and one key more or less changes the few chains on its own path.

Two bits, because a sparse set then still fills its leaves (with four bits, 10,000 addresses
strewn over a /16 make 4,000 leaves of two or three; iptables-nft takes quadratic time to make
chains), and because a chain on the way holds at most four rules.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

LEAF = 16
"""Most keys in one leaf."""

STRIDE = 2
"""Bits by which a chain's children differ."""


class Node(NamedTuple):
    """The keys whose first *length* bits are those of *value* (whose other bits are zero)."""

    value: int
    length: int


ROOT = Node(0, 0)

Shape = Mapping[Node, tuple[Node, ...]]
"""Each node with its children in order; a leaf has none."""


def shape(keys: Sequence[int], bits: int) -> dict[Node, tuple[Node, ...]]:
    """The tree over *keys*, which are sorted, unique and have *bits* bits (an even number)."""
    made: dict[Node, tuple[Node, ...]] = {}
    todo = [(ROOT, 0, len(keys))]
    while todo:
        node, low, high = todo.pop()
        if high - low <= LEAF:
            made[node] = ()
            continue
        # The first bits that sorted keys share are those that the first and the last share.
        same = bits - (keys[low] ^ keys[high - 1]).bit_length()
        length = same - same % STRIDE + STRIDE
        width = bits - length
        children = []
        while low < high:
            prefix = keys[low] >> width
            end = bisect_left(keys, (prefix + 1) << width, low, high)
            child = Node(prefix << width, length)
            children.append(child)
            todo.append((child, low, end))
            low = end
        made[node] = tuple(children)
    return made


def leaf_of(tree: Shape, key: int, bits: int) -> Node | None:
    """The leaf that holds *key*, or would; None when no child covers it."""
    path = path_to(tree, key, bits)
    return path[-1] if path and not tree[path[-1]] else None


def path_to(tree: Shape, key: int, bits: int) -> list[Node]:
    """The nodes from the root on whose prefix *key* has; ends at a leaf if one covers it."""
    path = [ROOT]
    while True:
        for child in tree[path[-1]]:
            if key >> (bits - child.length) == child.value >> (bits - child.length):
                path.append(child)
                break
        else:
            return path


def keys_in(node: Node, keys: Sequence[int], bits: int) -> Sequence[int]:
    """Those of the sorted *keys* that have the prefix of *node*."""
    low = bisect_left(keys, node.value)
    high = bisect_left(keys, node.value + (1 << (bits - node.length)), low)
    return keys[low:high]
