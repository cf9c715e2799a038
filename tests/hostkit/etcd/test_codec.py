"""The translation to and from the gateway's JSON."""

import json
from base64 import b64encode
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from hostkit.etcd import codec
from hostkit.etcd.watch import Changes, Cursor


@given(st.text(min_size=1), st.binary())
def test_exactly_the_keys_that_begin_with_a_prefix_lie_in_its_range(
    prefix: str, rest: bytes
) -> None:
    first, end = codec.prefix_range(prefix)
    inside = prefix.encode() + rest
    assert first <= inside < end
    assert first < end


def test_the_empty_prefix_is_every_key() -> None:
    assert codec.prefix_range("") == (b"\0", b"\0")


def test_a_prefix_of_highest_bytes_has_no_end() -> None:
    assert codec.prefix_range(codec.key_text(b"\xff\xff")) == (b"\xff\xff", b"\0")


@given(st.binary())
def test_any_key_survives_the_way_to_text_and_back(key: bytes) -> None:
    assert codec.key_bytes(codec.key_text(key)) == key


def test_int64_strings_are_read_and_absent_fields_are_zero() -> None:
    data = {
        "header": {"cluster_id": "18446744073709551615", "revision": "9007199254740993"},
        "kvs": [{"key": b64encode(b"/a").decode(), "mod_revision": "7", "lease": "-5"}],
        "count": "1",
        "unknown": {"nested": [1]},
    }
    reply = codec.decoder(codec.RangeReply).decode(json.dumps(data).encode())
    result = codec.range_result(reply)
    assert result.revision == 9007199254740993
    assert result.cluster_id == 18446744073709551615
    assert result.kvs == (codec.KeyValue("/a", b"", mod_revision=7, lease=-5),)


def test_a_transaction_names_each_operation_as_the_gateway_wants_it() -> None:
    body = codec.txn_body(
        [codec.absent("/k"), codec.lease_is("/k", 5)],
        [codec.put("/k", b"v", 5), codec.delete("/d")],
        [codec.get("/k")],
    )
    wire = json.loads(codec.encode(body))
    key = b64encode(b"/k").decode()
    assert wire["compare"] == [
        {"key": key, "target": "VERSION", "result": "EQUAL", "version": "0"},
        {"key": key, "target": "LEASE", "result": "EQUAL", "lease": "5"},
    ]
    value = b64encode(b"v").decode()
    assert wire["success"][0] == {"requestPut": {"key": key, "value": value, "lease": "5"}}
    assert wire["failure"] == [{"requestRange": {"key": key}}]


def _put(key: str, created: int, modified: int) -> codec.Event:
    return codec.Event("put", codec.KeyValue(key, b"", created, modified))


NEWEST = codec.KeyValue("/z", b"v", create_revision=4, mod_revision=9, version=2, lease=7)


def test_a_cursor_counts_creations_and_deletes_but_not_updates() -> None:
    cursor = Cursor(revision=10, cluster_id=1, count=3, newest=NEWEST)
    changed = _put("/b", 4, 12)
    cursor = cursor.after(Changes(12, (_put("/a", 11, 11), changed)))
    assert (cursor.revision, cursor.count, cursor.newest) == (12, 4, changed.kv)
    gone = codec.Event("delete", codec.KeyValue("/a", b"", mod_revision=13))
    cursor = cursor.after(Changes(13, (gone,)))
    assert (cursor.revision, cursor.count, cursor.newest) == (13, 3, None)


def test_a_cursor_knows_no_newest_key_when_one_transaction_changed_several() -> None:
    cursor = Cursor(revision=10, cluster_id=1, count=3, newest=NEWEST)
    assert cursor.after(Changes(11, (_put("/a", 11, 11), _put("/b", 11, 11)))).newest is None
    kvs = (_put("/a", 3, 3).kv, _put("/b", 5, 5).kv, _put("/c", 5, 5).kv)
    assert Cursor.at(codec.RangeResult(kvs, 20, 3, 1)).newest is None
    assert Cursor.at(codec.RangeResult(kvs[:2], 20, 2, 1)).newest == kvs[1]


def test_a_history_is_ours_only_with_the_same_cluster_count_and_newest_key() -> None:
    cursor = Cursor(revision=10, cluster_id=1, count=3, newest=NEWEST)
    assert cursor.is_in(codec.RangeResult((NEWEST,), 20, 3, 1))
    assert not cursor.is_in(codec.RangeResult((NEWEST,), 20, 3, 2))
    assert not cursor.is_in(codec.RangeResult((NEWEST,), 20, 4, 1))
    assert not cursor.is_in(codec.RangeResult((replace(NEWEST, lease=8),), 20, 3, 1))
    unknown = replace(cursor, newest=None)
    assert unknown.is_in(codec.RangeResult((NEWEST,), 20, 3, 1))
