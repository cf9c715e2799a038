"""A copy of a collection whose owner hears of true changes only."""

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from hostkit.kube.listwatch import Changed, Kind, Listed
from hostkit.kube.mirror import Mirror


def raw(name: str, **spec: Any) -> msgspec.Raw:
    """An object in the namespace "default"."""
    meta = {"namespace": "default", "name": name, "resourceVersion": "1"}
    return msgspec.Raw(json.dumps({"metadata": meta, "spec": spec}).encode())


class Thing(msgspec.Struct):
    """What the owner wants to know."""

    value: int = 0
    ignore: bool = False
    key: str = ""


class _Body(msgspec.Struct):
    metadata: dict[str, str]
    spec: Thing


def decode(data: msgspec.Raw) -> tuple[str, int] | None:
    """The value; negative ones are bad."""
    body = msgspec.json.decode(data, type=_Body)
    if body.spec.ignore:
        return None
    if body.spec.value < 0:
        raise ValueError("spec.value: must not be negative")
    return body.spec.key or f"default/{body.metadata['name']}", body.spec.value


class Owner:
    """Hears what a mirror tells and keeps a copy of its own from that alone."""

    def __init__(self) -> None:
        self.mirror = Mirror(
            decode, on_change=self._change, on_listed=self._listed, on_bad=self._bad
        )
        self.copy: dict[str, int] = {}
        self.changes: list[tuple[str, int | None, int | None]] = []
        self.lists: list[int] = []
        self.bad: list[tuple[str, str]] = []

    def _change(self, key: str, old: int | None, new: int | None) -> None:
        assert old != new
        assert self.copy.get(key) == old
        self.changes.append((key, old, new))
        if new is None:
            del self.copy[key]
        else:
            self.copy[key] = new

    def _listed(self) -> None:
        self.lists.append(len(self.changes))

    def _bad(self, name: str, text: str) -> None:
        self.bad.append((name, text))

    def change(self, kind: Kind, data: msgspec.Raw) -> None:
        self.mirror.take(Changed(kind, data, "1"))


def test_a_list_tells_each_object_and_then_that_it_is_complete() -> None:
    owner = Owner()
    before = owner.mirror.listed
    owner.mirror.take(Listed([raw("a", value=1), raw("b", value=2)], "1"))
    assert owner.changes == [("default/a", None, 1), ("default/b", None, 2)]
    assert owner.lists == [2]
    assert (before, owner.mirror.listed) == (False, True)
    assert dict(owner.mirror.items) == {"default/a": 1, "default/b": 2}


def test_a_second_list_tells_only_what_differs() -> None:
    owner = Owner()
    owner.mirror.take(Listed([raw("a", value=1), raw("b", value=2), raw("c", value=3)], "1"))
    owner.changes.clear()
    owner.mirror.take(Listed([raw("c", value=3), raw("b", value=5), raw("d", value=4)], "9"))
    assert sorted(owner.changes) == [
        ("default/a", 1, None),
        ("default/b", 2, 5),
        ("default/d", None, 4),
    ]


def test_an_update_that_changes_nothing_of_interest_is_not_told() -> None:
    owner = Owner()
    owner.change("ADDED", raw("a", value=1))
    owner.change("MODIFIED", raw("a", value=1, label="other"))
    owner.change("ADDED", raw("a", value=1))
    owner.change("MODIFIED", raw("a", value=2))
    owner.change("DELETED", raw("a", value=2))
    owner.change("DELETED", raw("a", value=2))
    assert owner.changes == [("default/a", None, 1), ("default/a", 1, 2), ("default/a", 2, None)]


def test_a_bad_object_is_told_and_counts_as_absent_until_it_is_good_again() -> None:
    owner = Owner()
    owner.mirror.take(Listed([raw("a", value=1), raw("b", value=-1)], "1"))
    owner.change("MODIFIED", raw("a", value=-1))
    owner.change("MODIFIED", raw("a", value=-1, again=True))
    owner.change("MODIFIED", raw("b", value=3))
    owner.change("MODIFIED", raw("c", value="text"))
    assert owner.copy == {"default/b": 3}
    assert owner.bad[:3] == [
        ("default/b", "spec.value: must not be negative"),
        ("default/a", "spec.value: must not be negative"),
        ("default/b", ""),
    ]
    assert owner.bad[3][0] == "default/c"
    assert "Expected `int`, got `str`" in owner.bad[3][1]
    assert set(owner.mirror.bad) == {"default/a", "default/c"}
    owner.change("DELETED", raw("a", value=-1))
    owner.mirror.take(Listed([], "2"))
    assert not owner.mirror.bad
    assert owner.bad[4:] == [("default/a", ""), ("default/c", "")]


def test_an_object_that_no_longer_matters_is_gone() -> None:
    owner = Owner()
    owner.change("ADDED", raw("a", value=1))
    owner.change("MODIFIED", raw("a", value=1, ignore=True))
    assert owner.copy == {}
    assert not owner.bad


def test_an_object_whose_key_changes_moves() -> None:
    owner = Owner()
    owner.change("ADDED", raw("a", value=1, key="x"))
    owner.change("MODIFIED", raw("a", value=1, key="y"))
    assert owner.changes == [("x", None, 1), ("x", 1, None), ("y", None, 1)]
    owner.change("DELETED", raw("a"))
    assert owner.copy == {}


def test_objects_that_are_none_are_told_and_the_others_work() -> None:
    owner = Owner()
    junk = [b"7", b'{"metadata":{}}', b'{"metadata":{"name":"\\ud800"}}', b"[" * 5000]
    owner.mirror.take(Listed([*map(msgspec.Raw, junk), raw("a", value=1)], "1"))
    assert owner.copy == {"default/a": 1}
    assert {name for name, _ in owner.bad} == {""}
    assert "" in owner.mirror.bad
    owner.mirror.take(Listed([raw("a", value=1)], "2"))
    assert not owner.mirror.bad


def test_a_cluster_wide_object_is_known_by_its_name_alone() -> None:
    owner = Owner()
    body = msgspec.Raw(b'{"metadata":{"name":"node"},"spec":{"value":-3}}')
    owner.mirror.take(Listed([body], "1"))
    assert owner.bad == [("node", "spec.value: must not be negative")]


async def test_a_mirror_takes_all_that_its_source_gives() -> None:
    owner = Owner()

    async def source() -> AsyncIterator[Listed | Changed]:
        yield Listed([raw("a", value=1)], "1")
        yield Changed("ADDED", raw("b", value=2), "2")

    await owner.mirror.run(source())
    assert owner.copy == {"default/a": 1, "default/b": 2}


_objects = st.dictionaries(st.sampled_from("abcd"), st.integers(-1, 2), max_size=4)
_steps = st.one_of(
    st.tuples(st.just("list"), _objects),
    st.tuples(st.sampled_from(["ADDED", "MODIFIED", "DELETED"]), st.sampled_from("abcd")),
)


@given(st.lists(st.tuples(_steps, st.integers(-1, 2))))
def test_whatever_comes_in_whatever_order_the_copy_is_the_last_word_on_each_object(
    steps: list[tuple[tuple[str, Any], int]],
) -> None:
    owner = Owner()
    model: dict[str, int] = {}
    for (what, of), value in steps:
        if what == "list":
            model = dict(of)
            owner.mirror.take(Listed([raw(n, value=v) for n, v in of.items()], "1"))
        elif what == "DELETED":
            model.pop(of, None)
            owner.change("DELETED", raw(of, value=value))
        else:
            model[of] = value
            owner.change("ADDED" if what == "ADDED" else "MODIFIED", raw(of, value=value))
        good = {f"default/{name}": v for name, v in model.items() if v >= 0}
        bad = {f"default/{name}" for name, v in model.items() if v < 0}
        assert owner.copy == dict(owner.mirror.items) == good
        assert set(owner.mirror.bad) == bad
