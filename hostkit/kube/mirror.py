"""A copy of a collection, decoded, that tells its owner of true changes only.

An object is known by namespace and name. What *decode* leaves out or cannot make sense of
counts as absent, so one bad object never hides another, and a good one that turns bad goes.
"""

from collections.abc import AsyncIterable, Callable, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

import msgspec

from hostkit.errors import cut
from hostkit.kube.listwatch import Changed, Listed

T = TypeVar("T")


class _Meta(msgspec.Struct):
    name: str = ""
    namespace: str = ""


class _Object(msgspec.Struct):
    metadata: _Meta


_object = msgspec.json.Decoder(_Object)


def _nothing() -> None:
    return


class Mirror(Generic[T]):
    """The objects of one collection by the key that *decode* gives them, which must be unique.

    *decode* returns key and value, or None for an object that does not matter here, and raises
    ValueError with a sentence for one that is bad. *on_change* hears key, old and new value, None
    for absent; *on_listed* hears of each list once its changes were told. *on_bad* hears
    ``namespace/name`` and the sentence when it changes, "" when the object is good or gone.
    """

    def __init__(
        self,
        decode: Callable[[msgspec.Raw], tuple[str, T] | None],
        *,
        on_change: Callable[[str, T | None, T | None], None],
        on_listed: Callable[[], None] = _nothing,
        on_bad: Callable[[str, str], None] = lambda _hint, _text: None,
    ) -> None:
        self._decode = decode
        self._on_change = on_change
        self._on_listed = on_listed
        self._on_bad = on_bad
        self._keys: dict[str, str] = {}
        self._values: dict[str, T] = {}
        self._bad: dict[str, str] = {}
        self.listed = False

    @property
    def items(self) -> Mapping[str, T]:
        """The values by key."""
        return MappingProxyType(self._values)

    @property
    def bad(self) -> Mapping[str, str]:
        """What is wrong with each bad object, by ``namespace/name``."""
        return MappingProxyType(self._bad)

    async def run(self, source: AsyncIterable[Listed | Changed]) -> None:
        """Take all that comes from *source*, such as ``follow`` gives."""
        async for item in source:
            self.take(item)
            # The next one may be long in coming, and a list holds on to its whole answer.
            del item

    def take(self, item: Listed | Changed) -> None:
        """Take one item."""
        if isinstance(item, Changed):
            self._put(item.object, gone=item.kind == "DELETED")
            return
        seen = {self._put(raw) for raw in item.items}
        for name in [name for name in self._keys if name not in seen]:
            self._drop(name)
        for name in [name for name in self._bad if name not in seen]:
            self._judge(name, "")
        self.listed = True
        self._on_listed()

    def _put(self, raw: msgspec.Raw, *, gone: bool = False) -> str:
        """Take one object; returns its ``namespace/name``, "" when it has none."""
        try:
            meta = _object.decode(raw).metadata
            name = f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name
            if not meta.name:
                raise ValueError("it has no name")
        except (ValueError, RecursionError) as error:
            self._judge("", _text(error))
            return ""
        entry, text = None, ""
        if not gone:
            try:
                entry = self._decode(raw)
            except (ValueError, RecursionError) as error:
                text = _text(error)
        if entry is None:
            self._drop(name)
        else:
            self._hold(name, *entry)
        self._judge(name, text)
        return name

    def _hold(self, name: str, key: str, value: T) -> None:
        # One text for both, where they are equal.
        key = name if key == name else key
        if self._keys.get(name, key) != key:
            self._drop(name)
        old = self._values.get(key)
        self._keys[name] = key
        if old != value:
            self._values[key] = value
            self._on_change(key, old, value)

    def _drop(self, name: str) -> None:
        key = self._keys.pop(name, None)
        if key is not None:
            self._on_change(key, self._values.pop(key), None)

    def _judge(self, name: str, text: str) -> None:
        if self._bad.get(name, "") == text:
            return
        if text:
            self._bad[name] = text
        else:
            del self._bad[name]
        self._on_bad(name, text)


def _text(error: Exception) -> str:
    return cut(str(error) or type(error).__name__, 300)
