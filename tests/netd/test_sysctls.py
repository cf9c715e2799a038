"""Kernel settings, on a tree of files that stands for /proc/sys."""

from pathlib import Path

import pytest

from netd.sysctls import Setting, ensure

FORWARD = "net/ipv4/ip_forward"
BRIDGE = "net/bridge/bridge-nf-call-iptables"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A kernel with both settings off."""
    for name in (FORWARD, BRIDGE):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("0\n")
    return tmp_path


def test_what_is_off_is_switched_on_and_what_was_found_is_told(root: Path) -> None:
    assert ensure(root) == [
        Setting("net.ipv4.ip_forward", "1", "0"),
        Setting("net.bridge.bridge-nf-call-iptables", "1", "0"),
    ]
    assert (root / FORWARD).read_text() == (root / BRIDGE).read_text() == "1"


def test_what_is_on_is_not_written_again(root: Path) -> None:
    ensure(root)
    before = (root / FORWARD).stat().st_mtime_ns
    assert [one.found for one in ensure(root)] == ["1", "1"]
    assert (root / FORWARD).stat().st_mtime_ns == before


def test_without_bridge_netfilter_its_setting_is_not_missed(root: Path) -> None:
    (root / BRIDGE).unlink()
    assert [one.name for one in ensure(root)] == ["net.ipv4.ip_forward"]


def test_a_setting_that_must_be_there_and_is_not_is_an_error(root: Path) -> None:
    (root / FORWARD).unlink()
    setting = ensure(root)[0]
    assert setting == Setting("net.ipv4.ip_forward", "1", "unreadable", "No such file or directory")


def test_a_setting_that_cannot_be_written_is_told_with_what_it_stays_at(root: Path) -> None:
    (root / FORWARD).unlink()
    # It can be read and, like everything below a read-only /proc/sys, never written.
    (root / FORWARD).symlink_to("/proc/version")
    first, second = ensure(root)
    assert first.found.startswith("Linux version")
    assert first.error
    assert (second.error, (root / BRIDGE).read_text()) == ("", "1")
