"""Calls: rotation, deadlines, doubtful writes, authentication, leases, versions."""

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from hostkit.etcd.config import EtcdConfig
from hostkit.etcd.errors import (
    EtcdApiError,
    EtcdAuthError,
    EtcdTlsError,
    EtcdUnavailable,
    EtcdVersionError,
)
from hostkit.etcd.gateway import (
    EtcdClient,
    absent,
    create_revision_is,
    delete,
    get,
    lease_is,
    mod_revision_is,
    put,
    value_is,
)
from tests.fakes.etcd import FakeEtcd, Refused, Store

RIGHT: dict[str, Any] = {"username": "netd", "password": "s3cret"}
WRONG: dict[str, Any] = {"username": "netd", "password": "wr0ng"}


async def test_a_key_is_written_read_listed_and_deleted(client: EtcdClient) -> None:
    assert await client.get("/n/a") is None
    first = await client.put("/n/a", b"\0\xff" * 100_000)
    await client.put("/n/b", b"")
    await client.put("/other", b"x")
    found = await client.get("/n/a")
    assert found is not None
    assert (found.value, found.mod_revision, found.version) == (b"\0\xff" * 100_000, first, 1)
    listed = await client.range_prefix("/n/")
    assert [kv.key for kv in listed.kvs] == ["/n/a", "/n/b"]
    assert listed.revision == first + 2
    assert (await client.range_prefix("/n/", limit=1)).count == 2
    assert await client.delete("/n/a") == 1
    assert await client.delete("/n/a") == 0


async def test_a_transaction_takes_the_branch_that_its_conditions_choose(
    client: EtcdClient,
) -> None:
    made = await client.txn([absent("/k")], [put("/k", b"1")], [get("/k")])
    assert made.succeeded
    again = await client.txn([absent("/k")], [put("/k", b"2")], [get("/k")])
    assert not again.succeeded
    (kv,) = again.responses[0].kvs
    assert kv.value == b"1"
    conditions = [
        mod_revision_is("/k", made.revision),
        create_revision_is("/k", made.revision),
        value_is("/k", b"1"),
        lease_is("/k", 0),
    ]
    gone = await client.txn(conditions, [delete("/k"), get("/k")])
    assert gone.succeeded
    assert gone.responses[0].deleted == 1
    assert gone.responses[1].kvs == ()


async def test_reads_go_on_at_the_next_endpoint_when_one_refuses_or_is_silent(
    client: EtcdClient, members: list[FakeEtcd]
) -> None:
    members[0].store.put("/a", b"v")
    await members[0].down()
    members[1].pause()
    assert await client.get("/a") is not None
    assert client.endpoint == members[2].url
    assert set(client.endpoint_errors) == {members[0].url, members[1].url}
    assert "refused" in client.endpoint_errors[members[0].url]
    assert "no answer within" in client.endpoint_errors[members[1].url]


async def test_the_client_stays_with_the_endpoint_that_answered(
    client: EtcdClient, members: list[FakeEtcd]
) -> None:
    members[0].fail("kv/range", Refused(503, 14, "etcdserver: no leader"))
    for _ in range(3):
        await client.get("/a")
    assert [member.count("kv/range") for member in members] == [1, 3, 0]


async def test_a_write_that_was_not_proposed_is_sent_to_the_next_endpoint(
    client: EtcdClient, members: list[FakeEtcd]
) -> None:
    await members[0].down()
    members[1].fail("kv/put", Refused(503, 14, "etcdserver: no leader"))
    await client.put("/a", b"v")
    kv = await client.get("/a")
    assert kv is not None
    assert kv.version == 1


@pytest.mark.parametrize("fault", ["lose-reply", "hang", "cut"])
async def test_a_write_whose_reply_is_missing_is_reported_as_doubtful_and_not_repeated(
    client: EtcdClient, members: list[FakeEtcd], fault: str
) -> None:
    members[0].fail("kv/txn", fault)  # type: ignore[arg-type]
    with pytest.raises(EtcdUnavailable, match="may have been applied") as caught:
        await client.txn([absent("/a")], [put("/a", b"v")])
    assert caught.value.maybe_applied
    assert [member.count("kv/txn") for member in members] == [1, 0, 0]
    # The caller reads the key again, from another endpoint.
    kv = await client.get("/a")
    assert (kv is not None) == (fault == "lose-reply")


async def test_when_no_endpoint_answers_each_is_named_with_its_cause(
    members: list[FakeEtcd], config: EtcdConfig
) -> None:
    now = [0.0]
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    client = EtcdClient(config, clock=lambda: now[0], sleep=sleep)
    for member in members:
        await member.down()
    with pytest.raises(EtcdUnavailable) as caught:
        await client.get("/a")
    await client.close()
    assert not caught.value.maybe_applied
    for member in members:
        assert "refused" in caught.value.causes[member.url]
        assert member.url in str(caught.value)
    assert now[0] <= config.total_timeout
    # Pauses grow and are bounded, also with their jitter.
    assert slept[0] <= 0.06
    assert 0.4 <= max(slept) <= 1.2


async def test_a_repeated_lease_grant_leaves_one_lease(
    client: EtcdClient, members: list[FakeEtcd], store: Store
) -> None:
    members[0].fail("lease/grant", "lose-reply")
    lease_id, ttl = await client.lease_grant(60)
    assert ttl == 60
    assert list(store.leases) == [lease_id]


async def test_a_lease_is_kept_measured_and_revoked_with_its_keys(client: EtcdClient) -> None:
    lease_id, _ = await client.lease_grant(60)
    await client.put("/l", b"v", lease=lease_id)
    assert await client.lease_keepalive(lease_id) == 60
    assert (await client.lease_time_to_live(lease_id)).granted == 60
    kv = await client.get("/l")
    assert kv is not None
    assert kv.lease == lease_id
    assert await client.lease_revoke(lease_id)
    assert not await client.lease_revoke(lease_id)
    assert await client.get("/l") is None
    assert await client.lease_keepalive(lease_id) == 0
    assert (await client.lease_time_to_live(lease_id)).ttl == -1
    with pytest.raises(EtcdApiError, match="lease not found"):
        await client.put("/l", b"v", lease=lease_id)


async def test_an_endpoint_with_only_the_v2_api_gets_a_sentence(
    client: EtcdClient, members: list[FakeEtcd]
) -> None:
    for member in members:
        member.v2_only = True
    with pytest.raises(EtcdVersionError, match=r"no /v3 API .* use etcd 3\.4 or newer"):
        await client.get("/a")
    assert sum(len(member.requests) for member in members) == 0


async def test_one_old_member_does_not_keep_the_others_from_answering(
    client: EtcdClient, members: list[FakeEtcd]
) -> None:
    members[0].v2_only = True
    await client.put("/a", b"v")


@pytest.mark.parametrize(
    ("refused", "meaning"),
    [
        (
            Refused(
                400,
                3,
                "rpc error: CommonName of client sending a request against gateway will be ignored",
            ),
            "without CN",
        ),
        (
            Refused(
                503,
                14,
                "all SubConns are in TransientFailure, latest connection error: connection error: "
                'desc = "transport: authentication handshake failed: remote error: tls: bad '
                'certificate"',
            ),
            "clientAuth",
        ),
        (
            Refused(
                503,
                14,
                'connection error: desc = "transport: failed to write client preface: write tcp '
                '127.0.0.1:59488->127.0.0.1:60153: write: connection reset by peer"',
            ),
            "clientAuth",
        ),
    ],
)
async def test_certificate_traps_of_the_gateway_are_explained(
    client: EtcdClient, members: list[FakeEtcd], refused: Refused, meaning: str
) -> None:
    for member in members:
        member.fail("kv/range", refused)
    with pytest.raises(EtcdTlsError, match=meaning):
        await client.get("/a")


async def test_an_answer_that_is_not_etcds_is_the_endpoints_fault(
    client: EtcdClient, members: list[FakeEtcd]
) -> None:
    members[0].fail("kv/range", Refused(502, -1, "<html>bad gateway</html>"))
    assert await client.get("/a") is None
    assert "502" in client.endpoint_errors[members[0].url]


DEEP = ["[" * 200_000, '{"header":' * 200_000, '{"unknown":' + "[" * 200_000]


@pytest.mark.parametrize("text", DEEP)
@pytest.mark.parametrize("status", [200, 500])
async def test_json_nested_without_end_is_the_endpoints_fault(
    client: EtcdClient, members: list[FakeEtcd], text: str, status: int
) -> None:
    members[0].fail("kv/range", Refused(status, -1, text))
    assert await client.get("/a") is None
    cause = client.endpoint_errors[members[0].url]
    assert "no etcd answer" in cause or "HTTP 500" in cause
    assert len(cause) < 300


async def test_an_answer_in_another_encoding_is_the_endpoints_fault(
    client: EtcdClient, members: list[FakeEtcd]
) -> None:
    members[0].fail("kv/range", Refused(200, -1, '{"unknown":"\udcff","kvs":[{"key":"\udcff"}]}'))
    assert await client.get("/a") is None
    assert "no etcd answer" in client.endpoint_errors[members[0].url]


async def test_a_listener_of_a_read_hears_what_all_endpoints_said_before_it_is_given_up(
    members: list[FakeEtcd], config: EtcdConfig
) -> None:
    now, told = [0.0], list[dict[str, str]]()

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    client = EtcdClient(config, clock=lambda: now[0], sleep=sleep)
    for member in members:
        await member.down()
    with pytest.raises(EtcdUnavailable) as caught:
        await client.range(
            {"key": b"/a"},
            on_trouble=lambda errors: told.append({name: str(errors[name]) for name in errors}),
        )
    await client.close()
    urls = [member.url for member in members]
    # Nobody hears of the first two: the third might have answered.
    assert [list(each) for each in told] == [urls] * len(told)
    assert list(caught.value.causes) == urls


@pytest.fixture
async def user(
    store: Store, members: list[FakeEtcd], config: EtcdConfig
) -> AsyncIterator[EtcdClient]:
    """A client with the right password for a cluster that wants one."""
    store.user, store.password = "netd", "s3cret"
    assert members
    made = EtcdClient(replace(config, **RIGHT))
    yield made
    await made.close()


async def test_an_expired_token_is_renewed_once_also_for_a_write(
    user: EtcdClient, members: list[FakeEtcd], store: Store
) -> None:
    await user.put("/a", b"1")
    store.tokens.clear()
    await user.put("/a", b"2")
    assert members[0].count("auth/authenticate") == 2
    kv = await user.get("/a")
    assert kv is not None
    assert kv.version == 2


async def test_a_token_that_is_refused_twice_is_an_authentication_error(
    user: EtcdClient, members: list[FakeEtcd]
) -> None:
    members[0].fail("kv/range", Refused(401, 16, "etcdserver: invalid auth token"), times=2)
    with pytest.raises(EtcdAuthError, match="invalid auth token"):
        await user.get("/a")
    assert members[0].count("auth/authenticate") == 2


async def test_a_lost_answer_to_the_authentication_does_not_make_a_write_doubtful(
    user: EtcdClient, members: list[FakeEtcd]
) -> None:
    members[0].fail("auth/authenticate", "cut")
    await user.put("/a", b"1")


@pytest.mark.parametrize("text", ["<html>log in here</html>", "{}", '{"token":7}', *DEEP])
async def test_a_log_in_answered_by_something_else_is_the_endpoints_fault(
    user: EtcdClient, members: list[FakeEtcd], text: str
) -> None:
    """The write itself was not sent, so it goes to the next endpoint."""
    members[0].fail("auth/authenticate", Refused(200, -1, text))
    await user.put("/a", b"1")
    assert "no etcd answer" in user.endpoint_errors[members[0].url]
    assert members[0].count("kv/put") == 0


async def test_a_log_in_that_nobody_understands_is_told_for_each_endpoint(
    members: list[FakeEtcd], store: Store, config: EtcdConfig
) -> None:
    store.user, store.password = "netd", "s3cret"
    for member in members:
        member.fail("auth/authenticate", Refused(200, -1, "<html>"), times=1000)
    client = EtcdClient(replace(config, total_timeout=1.0, **RIGHT))
    with pytest.raises(EtcdUnavailable, match="no etcd answer") as caught:
        await client.put("/a", b"1")
    await client.close()
    assert not caught.value.maybe_applied


async def test_wrong_credentials_are_refused_and_never_shown(
    members: list[FakeEtcd],
    store: Store,
    config: EtcdConfig,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    store.user, store.password = "netd", "s3cret"
    wrong = EtcdClient(replace(config, **WRONG))
    with pytest.raises(EtcdAuthError, match="authentication failed") as caught:
        await wrong.get("/a")
    await wrong.close()
    none = EtcdClient(config)
    with pytest.raises(EtcdAuthError, match="wants username and password"):
        await none.get("/a")
    await none.close()
    assert "wr0ng" not in str(caught.value) + caplog.text
    assert members[0].count("auth/authenticate") == 1


async def test_credentials_do_no_harm_where_authentication_is_off(
    members: list[FakeEtcd], config: EtcdConfig
) -> None:
    client = EtcdClient(replace(config, **RIGHT))
    await client.put("/a", b"v")
    await client.close()
    assert members[0].count("kv/put") == 1


async def test_the_status_names_the_member_that_answered(
    client: EtcdClient, members: list[FakeEtcd]
) -> None:
    status = await client.status()
    assert (status.endpoint, status.version, status.db_size) == (members[0].url, "3.4.23", 20480)
