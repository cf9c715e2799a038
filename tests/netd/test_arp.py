"""The ARP probe as it goes out, and what is read from whatever frame comes back."""

import re
import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.l2 import ARP, Ether

from netd.arp import owner_in, probe_frame

ADDRESS = IPv4Address("198.18.0.1")
OURS = bytes.fromhex("020000000001")
THEIRS = "02:00:00:00:00:63"
REQUEST, REPLY = 1, 2


def answer(operation: int = REPLY, sender: str = str(ADDRESS), mac: str = THEIRS) -> bytes:
    """The frame by which *mac* says that it has *sender*."""
    arp = ARP(op=operation, hwsrc=mac, psrc=sender, hwdst="02:00:00:00:00:01", pdst="0.0.0.0")
    return bytes(Ether(src=mac, dst="02:00:00:00:00:01") / arp)


def test_a_probe_asks_everybody_and_names_no_sender_address() -> None:
    """RFC 5227, 2.1.1: with a sender address it would change the caches of others."""
    frame = Ether(probe_frame(OURS, ADDRESS))
    assert (frame.dst, frame.src, frame.type) == (
        "ff:ff:ff:ff:ff:ff", "02:00:00:00:00:01", 0x0806,
    )  # fmt: skip
    arp = frame[ARP]
    assert (arp.hwtype, arp.ptype, arp.hwlen, arp.plen, arp.op) == (1, 0x0800, 6, 4, REQUEST)
    assert (arp.hwsrc, arp.psrc) == ("02:00:00:00:00:01", "0.0.0.0")
    assert (arp.hwdst, arp.pdst) == ("00:00:00:00:00:00", str(ADDRESS))


@pytest.mark.parametrize("operation", [REQUEST, REPLY])
def test_whoever_sends_from_the_address_has_it_whether_he_answers_or_asks(operation: int) -> None:
    assert owner_in(answer(operation), ADDRESS) == THEIRS
    # A short frame is padded to Ethernet's 60 bytes on the wire.
    assert owner_in(answer(operation).ljust(60, b"\0"), ADDRESS) == THEIRS


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        answer()[:-1],
        answer(sender="198.18.0.2"),
        answer(sender="0.0.0.0"),
        answer(operation=3),
        answer()[:16] + struct.pack("!H", 0x86DD) + answer()[18:],
        probe_frame(OURS, ADDRESS),
    ],
    ids=["empty", "cut", "another's", "a probe", "reverse ARP", "another protocol", "our probe"],
)
def test_a_frame_that_does_not_speak_from_the_address_names_no_owner(frame: bytes) -> None:
    assert owner_in(frame, ADDRESS) is None


@settings(deadline=None)
@given(st.binary(max_size=100), st.ip_addresses(v=4))
def test_garbage_is_read_without_failing_and_names_no_owner(
    frame: bytes, address: IPv4Address
) -> None:
    owner = owner_in(frame, address)
    if owner is not None:
        assert address.packed == frame[28:32]
        assert re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", owner)


@settings(deadline=None)
@given(st.data(), st.integers(0, len(answer())))
def test_an_answer_with_damaged_bytes_names_the_sender_that_it_shows_or_none(
    data: st.DataObject, length: int
) -> None:
    frame = bytearray(answer()[:length])
    for place in data.draw(st.sets(st.integers(0, len(answer()) - 1), max_size=3)):
        if place < length:
            frame[place] = data.draw(st.integers(0, 255))
    owner = owner_in(bytes(frame), ADDRESS)
    assert owner in {None, ":".join(f"{byte:02x}" for byte in frame[22:28])}
    if length < len(answer()):
        assert owner is None


@settings(deadline=None)
@given(st.ip_addresses(v=4), st.binary(min_size=6, max_size=6))
def test_the_answer_to_any_probe_is_understood(address: IPv4Address, mac: bytes) -> None:
    """As a kernel makes it: it swaps the two sides and fills in its own MAC."""
    probe = probe_frame(OURS, address)
    reply = (
        probe[6:12] + mac + probe[12:20] + struct.pack("!H", REPLY)
        + mac + probe[38:42] + probe[22:28] + probe[28:32]
    )  # fmt: skip
    assert owner_in(reply, address) == mac.hex(":")
