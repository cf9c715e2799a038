"""The state survives a reboot; a damaged file counts as none."""

import json
import logging
import stat
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd.leases.model import Lease
from netd.leases.peers import Record, Roster, interpret
from netd.state import SavedRecord, State, load_state, save_state
from tests.netd.leases.strategies import JUDGE, garbage, good_records, mac, record


def leases(records: list[Record]) -> list[Lease]:
    """The well-formed ones."""
    return [entry for entry in map(interpret, records) if isinstance(entry, Lease)]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "lib" / "netd" / "state.json"
    state = State(
        vtep_mac=mac(1), subnet="10.1.1.0/24", public_ip="198.18.0.1", config="{}", saved_at=5.5,
        records=[SavedRecord.of(one) for one in leases([record("10.1.3.0/24", 2)])],
    )  # fmt: skip
    save_state(path, state)
    assert load_state(path) == state
    assert load_state(path).remembered == IPv4Network("10.1.1.0/24")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@settings(deadline=None)
@given(st.lists(st.one_of(good_records(), garbage()), max_size=20))
def test_the_peers_are_the_same_from_saved_records(records: list[Record]) -> None:
    before, after = Roster(), Roster()
    before.replace(records, 5)
    after.replace([SavedRecord.of(one).record() for one in before.leases()], 0)

    def seen(roster: Roster) -> dict[IPv4Network, tuple[str, object, str, int, int]]:
        return {
            subnet: (one.key, one.public_ip, one.vtep_mac, one.lease_id, one.create_revision)
            for subnet, one in roster.view(JUDGE).peers.items()
        }

    assert seen(after) == seen(before)


def test_without_a_file_the_state_is_empty_and_nothing_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_state(tmp_path / "none") == State()
    assert State().remembered is None
    assert State().to_records() == []
    assert caplog.records == []


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"subnet": 7}', b'{"records": [["k"]]}',
        b'{"records": [["k", "10.0.0.1", "vxlan", "x", "m", 1, 1]]}', b'{"vtep_mac": "a',
    ],
)  # fmt: skip
def test_a_damaged_file_counts_as_none_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert load_state(path) == State()
    assert str(path) in caplog.text


def test_a_file_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    assert load_state(tmp_path) == State()


def test_a_file_of_another_format_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"format": 2, "subnet": "10.1.1.0/24"}))
    assert load_state(path) == State()


def test_fields_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"format": 1, "subnet": "10.1.1.0/24", "later": [1]}))
    assert load_state(path).remembered == IPv4Network("10.1.1.0/24")


@pytest.mark.parametrize("subnet", ["", "x", "10.1.1.1/24", "10.1.1.0/99", "fd00::/64"])
def test_a_subnet_that_is_none_is_not_remembered(subnet: str) -> None:
    assert State(subnet=subnet).remembered is None


def test_a_saved_record_that_was_tampered_with_is_one_bad_record(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    good = SavedRecord.of(leases([record("10.1.3.0/24", 2)])[0])
    bad = SavedRecord("/p/subnets/10.1.4.0-24", 'a"b', "vxlan", 1, mac(3), 1, 1)
    save_state(path, State(records=[good, bad]))
    roster = Roster()
    roster.replace(load_state(path).to_records(), 0)
    view = roster.view(JUDGE)
    assert [str(one) for one in view.peers] == ["10.1.3.0/24"]
    assert list(view.skipped) == ["/p/subnets/10.1.4.0-24"]
