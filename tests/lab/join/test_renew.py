"""A joined node gets its next certificate by the present one, when most of its life is over."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509 as library
from rich.console import Console

from hostkit.errors import HostkitError
from lab import cli
from lab.errors import LabError, UsageError
from lab.join import csr, joincommand, record
from lab.join.member import CA, Member
from lab.join.model import RECORD_FILE, Record
from lab.join.renew import Renewal, due, renew, warning_of
from lab.master import x509
from lab.master.certificates import Wanted
from lab.output import Output
from tests.lab.join.cluster import Cluster, pem

NODE = csr.client_of("w1")
SERVER = csr.serving_of("w1", "10.0.0.9")
DAY = timedelta(days=1)


FIXED = datetime(2026, 3, 1, tzinfo=UTC)


def moment() -> datetime:
    """Now, in whole seconds as certificates have them."""
    return datetime.now(UTC).replace(microsecond=0)


def _give(cluster: Cluster, member: Member, wanted: Wanted, life: timedelta) -> None:
    """Sign *wanted* for *life* from now on."""
    cluster.life = life
    signer: csr.Signer = csr.CLIENT if wanted.client else csr.SERVING
    request = csr.Request(signer, wanted, member.key(wanted))
    asked = library.load_pem_x509_csr(csr.pem_of(request))
    member.keep(wanted, cluster.issue(asked, client=wanted.client))
    cluster.life = timedelta(days=365)


@pytest.fixture
def host(tmp_path: Path, cluster: Cluster) -> Member:
    """The disk of a node that joined just now."""
    member = Member(tmp_path / "host")
    member.trust(pem(cluster.ca).decode())
    _give(cluster, member, NODE, 365 * DAY)
    _give(cluster, member, SERVER, 365 * DAY)
    known = Record(
        role="worker", name="w1", address="10.0.0.9", server=cluster.server.url,
        ca_hash=cluster.pin, at=1.0,
    )  # fmt: skip
    record.save(known, member.path(RECORD_FILE))
    return member


async def run(host: Member, *, after: timedelta = timedelta()) -> Renewal:
    """What the timer starts, some time after the join."""
    then = (moment() + after).timestamp()
    return await renew(lambda _subject, _text: None, root=host.root, now=lambda: then)


async def test_a_young_certificate_stays(host: Member, cluster: Cluster) -> None:
    """The API is not even asked."""
    before = host.cert(NODE).read_bytes()
    done = await run(host, after=200 * DAY)
    assert (done.renewed, done.warning) == (False, "")
    assert host.cert(NODE).read_bytes() == before
    assert cluster.calls == []


async def test_one_with_less_than_a_third_left_is_replaced(host: Member, cluster: Cluster) -> None:
    """By a request of the node itself; the key stays, so that one file is all that changes."""
    _give(cluster, host, NODE, timedelta(minutes=1))
    before, key = host.cert(NODE).read_bytes(), host.key_file(NODE).read_bytes()
    done = await run(host)
    assert done.renewed
    assert host.cert(NODE).read_bytes() != before
    assert host.key_file(NODE).read_bytes() == key
    assert host.held(NODE, pem(cluster.ca).decode(), moment() + 364 * DAY) is not None
    assert cluster.made("POST", "certificatesigningrequests") == ["system:node:w1"]
    assert not (await run(host)).renewed


async def test_a_renewal_that_fails_keeps_what_is_there(host: Member, cluster: Cluster) -> None:
    """And the next one finds the request that was made."""
    _give(cluster, host, NODE, timedelta(minutes=1))
    before = host.cert(NODE).read_bytes()
    cluster.signs = False
    await cluster.stop()
    with pytest.raises((LabError, HostkitError)):
        await run(host)
    assert host.cert(NODE).read_bytes() == before


async def test_an_expired_one_takes_a_new_join(host: Member) -> None:
    """Nobody takes it for this node any more."""
    with pytest.raises(LabError, match=r"has expired.*barenode join"):
        await run(host, after=366 * DAY)


async def test_the_servers_certificate_is_never_renewed_here_but_warned_of(
    host: Member, cluster: Cluster
) -> None:
    """A node that could would have one for any name."""
    _give(cluster, host, SERVER, 60 * DAY)
    done = await run(host, after=45 * DAY)
    assert "new token" in done.warning
    assert cluster.calls == []


async def test_hosts_that_did_not_join_are_told_what_to_do(tmp_path: Path) -> None:
    """Masters renew by their own PKI."""
    with pytest.raises(LabError, match="no member"):
        await run(Member(tmp_path))
    master = Record(role="master", name="m1", address="10.0.0.1", server="", ca_hash="")
    record.save(master, tmp_path / RECORD_FILE.lstrip("/"))
    with pytest.raises(LabError, match="barenode pki renew"):
        await run(Member(tmp_path))


def _certificate(begin: timedelta, end: timedelta) -> x509.Certificate:
    key = x509.new_key()
    return x509.make_authority("x", key, FIXED + begin, FIXED + end)


@pytest.mark.parametrize(
    ("begin", "end", "wanted"),
    [
        (-2 * DAY, DAY, False),
        (-2 * DAY - DAY / 24, DAY, True),
        (-DAY, DAY, False),
        (-9 * DAY, DAY, True),
    ],
)
def test_a_third_is_the_limit(begin: timedelta, end: timedelta, wanted: bool) -> None:
    """Of however long a life."""
    assert due(_certificate(begin, end), FIXED) is wanted


def test_the_warning_says_how_it_stands() -> None:
    """Missing, over, soon over, or nothing."""
    assert "has no certificate" in warning_of(None, FIXED)
    assert "has expired on" in warning_of(_certificate(-2 * DAY, -DAY), FIXED)
    assert "expires on" in warning_of(_certificate(-306 * DAY, 59 * DAY), FIXED)
    assert warning_of(_certificate(-304 * DAY, 61 * DAY), FIXED) == ""
    # Of a short life a third is soon enough.
    assert warning_of(_certificate(-DAY, 59 * DAY), FIXED) == ""
    assert "expires on" in warning_of(_certificate(-41 * DAY, 19 * DAY), FIXED)


async def test_the_flag_goes_with_no_other() -> None:
    """It needs neither address nor token."""
    args = cli.parse(["join", "10.0.0.1", "--renew"], "1")
    output = Output(Console(file=io.StringIO()), Console(file=io.StringIO()))
    with pytest.raises(UsageError, match="--renew takes no ADDRESS"):
        await joincommand.run(args, output)


async def test_a_ca_that_is_gone_is_named(host: Member) -> None:
    """Without it nothing can be checked."""
    host.path(CA).unlink()
    with pytest.raises(LabError, match=r"pki/ca\.crt cannot be read"):
        await run(host)
