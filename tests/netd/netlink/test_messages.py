"""The codec: what is asked reads back as what was meant, and odd input is skipped."""

from hypothesis import given
from hypothesis import strategies as st

from netd.netlink import messages as nl
from netd.netlink import requests as rq
from tests.fakes.netlink import render

octets4 = st.binary(min_size=4, max_size=4)
octets6 = st.binary(min_size=6, max_size=6)
indexes = st.integers(1, 2**31 - 1)


def value_of(request: rq.Request) -> nl.Value | None:
    (message,) = nl.decode(rq.encode(request, 7, ack=True))
    assert (message.type, message.seq) == (request.type, 7)
    return message.value


@given(indexes, octets4, octets6)
def test_neighbour_request_names_a_permanent_entry(index: int, ip: bytes, mac: bytes) -> None:
    """Address, MAC and device arrive; the state is permanent."""
    assert value_of(rq.new_neighbour(index, ip, mac)) == nl.Neighbour(index, ip, mac, 0x80)


@given(indexes, octets6, octets4)
def test_fdb_request_names_an_entry_of_the_device_itself(
    index: int, mac: bytes, dst: bytes
) -> None:
    """MAC, host and device arrive, with NTF_SELF and without another port or VNI."""
    assert value_of(rq.new_fdb(index, mac, dst)) == nl.FdbEntry(index, mac, dst, 0x80, 2, False)


@given(octets4, st.integers(0, 32), octets4, indexes, st.booleans())
def test_route_survives_the_way_to_the_kernel_and_back_to_its_deletion(
    dst: bytes, prefixlen: int, gateway: bytes, oif: int, onlink: bool
) -> None:
    """A put route reads back, and deleting what was read names the same route."""
    put = value_of(rq.new_route(dst, prefixlen, gateway, oif, protocol=85, onlink=onlink))
    assert isinstance(put, nl.Route)
    flags = nl.RTNH_F_ONLINK if onlink else 0
    assert put == nl.Route(dst, prefixlen, gateway, oif, 85, flags, 1, 0, 0, 254, False)
    gone = value_of(rq.del_route(put))
    assert isinstance(gone, nl.Route)
    assert gone._replace(flags=flags) == put


def test_link_with_vxlan_attributes_is_read() -> None:
    """Nested attributes, the big-endian port and the bare GBP flag are understood."""
    vxlan = nl.Vxlan(7, b"\xc6\x12\x4d\x01", 3, 4789, True, True, False)
    link = nl.Link(5, "flannel.7", nl.IFF_UP, 1450, b"\x0e\0\0\0\0\1", "vxlan", vxlan)
    (message,) = nl.decode(render(nl.RTM_NEWLINK, link))
    assert message.value == link
    assert link.up
    assert not link.carrier


@given(st.integers(0, 2**31 - 1), st.booleans())
def test_link_tells_its_master_and_whether_it_resolves_neighbours(master: int, arp: bool) -> None:
    """A port names its bridge; IFF_NOARP is understood."""
    flags = nl.IFF_UP | (0 if arp else nl.IFF_NOARP)
    link = nl.Link(5, "flannel.1", flags, 1450, b"\x0e\0\0\0\0\1", "", None, master)
    (message,) = nl.decode(render(nl.RTM_NEWLINK, link))
    assert message.value == link
    assert link.arp is arp


def test_bridge_port_that_leaves_is_no_deleted_link() -> None:
    """RTM_DELLINK of family AF_BRIDGE only says that a port left its bridge."""
    data = rq.encode(rq.Request(nl.RTM_DELLINK, 0, nl.IFINFO.pack(7, 1, 5, 1, 0)), 1)
    (message,) = nl.decode(data)
    assert message.value is None


def test_refusal_carries_errno_and_the_kernels_words() -> None:
    """A capped error with extended acknowledgement yields both."""
    quoted = nl.HEADER.pack(16, nl.RTM_NEWROUTE, 0, 9, 0)
    text = nl.ATTR.pack(4 + 12, 1) + b"bad nexthop\0"
    body = nl.ERRNO.pack(-22) + quoted + text
    data = nl.HEADER.pack(16 + len(body), nl.NLMSG_ERROR, nl.NLM_F_ACK_TLVS, 9, 0) + body
    (message,) = nl.decode(data)
    assert message.failure == nl.Failure(22, "bad nexthop")


def test_acknowledgement_is_no_failure() -> None:
    """Errno 0 is success."""
    body = nl.ERRNO.pack(0) + nl.HEADER.pack(16, nl.RTM_NEWROUTE, 0, 9, 0)
    (message,) = nl.decode(nl.HEADER.pack(16 + len(body), nl.NLMSG_ERROR, 0, 9, 0) + body)
    assert message.failure is None


@given(st.integers(0, 200))
def test_cut_datagram_yields_its_whole_messages_only(length: int) -> None:
    """What was cut off at any place does not disturb what precedes it."""
    one = rq.encode(rq.new_neighbour(3, b"\n\1\2\0", b"\x0e\0\0\0\0\1"), 1)
    whole = nl.decode((one * 4)[:length])
    assert len(list(whole)) == min(4, length // len(one))
