"""The shape of the tree is a function of the keys, and small changes stay small."""

import random

from hypothesis import given
from hypothesis import strategies as st

from netd.services.names import ADDRESS_BITS, PORT_BITS
from netd.services.tree import LEAF, ROOT, STRIDE, Node, keys_in, leaf_of, path_to, shape

key_sets = st.one_of(
    st.sets(st.integers(0, 2**PORT_BITS - 1), max_size=200),
    st.sets(st.integers(30_000, 30_400), max_size=200),
)


@given(key_sets)
def test_every_key_lies_in_exactly_one_leaf_and_no_leaf_holds_too_many(keys: set[int]) -> None:
    ordered = sorted(keys)
    tree = shape(ordered, PORT_BITS)
    found: list[int] = []
    for node, children in tree.items():
        if not children:
            held = keys_in(node, ordered, PORT_BITS)
            assert len(held) <= LEAF
            found += held
    assert sorted(found) == ordered
    for key in keys:
        leaf = leaf_of(tree, key, PORT_BITS)
        assert leaf is not None
        assert key in keys_in(leaf, ordered, PORT_BITS)


@given(key_sets)
def test_every_node_is_reached_from_the_root_once_and_has_few_children(keys: set[int]) -> None:
    tree = shape(sorted(keys), PORT_BITS)
    below = [child for children in tree.values() for child in children]
    assert sorted([ROOT, *below]) == sorted(tree)
    for node, children in tree.items():
        assert len(children) <= 2**STRIDE
        assert all(child.length > node.length for child in children)


@given(key_sets, st.integers(0, 2**PORT_BITS - 1))
def test_one_key_more_changes_only_the_nodes_on_its_path(keys: set[int], key: int) -> None:
    before = shape(sorted(keys - {key}), PORT_BITS)
    after = shape(sorted(keys | {key}), PORT_BITS)
    path = {*path_to(before, key, PORT_BITS), *path_to(after, key, PORT_BITS)}
    for node in before.keys() | after.keys():
        if before.get(node) != after.get(node):
            parents = {p for p, c in (*before.items(), *after.items()) if node in c}
            assert node in path or parents & path


@given(st.sets(st.integers(0, 2**PORT_BITS - 1), max_size=100), st.integers(0, 2**PORT_BITS - 1))
def test_a_key_that_is_not_there_leads_to_the_leaf_that_would_hold_it_or_to_none(
    keys: set[int], key: int
) -> None:
    tree = shape(sorted(keys), PORT_BITS)
    leaf = leaf_of(tree, key, PORT_BITS)
    if leaf is not None:
        width = PORT_BITS - leaf.length
        assert key >> width == leaf.value >> width


def test_ten_thousand_strewn_addresses_need_few_chains_and_a_short_way() -> None:
    rng = random.Random(1)
    base = 10 << 24 | 96 << 16
    keys = sorted(rng.sample(range(base, base + 65_536), 10_000))
    tree = shape(keys, ADDRESS_BITS)
    assert len(tree) < 2_000
    assert max(len(path_to(tree, key, ADDRESS_BITS)) for key in keys) <= 8
    assert len(path_to(tree, 8 << 24, ADDRESS_BITS)) == 1, "no service: only the root is looked at"


def test_an_empty_set_has_an_empty_root() -> None:
    assert shape([], ADDRESS_BITS) == {ROOT: ()}
    assert leaf_of(shape([], ADDRESS_BITS), 5, ADDRESS_BITS) == Node(0, 0)
