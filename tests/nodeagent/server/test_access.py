"""Who is let in: certificates and tokens, what they may do, and what happens without an answer."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from hostkit.problems import Problems
from nodeagent.errors import NodeAgentError
from nodeagent.server.access import ANONYMOUS, Access, Refused, User, subresource, user_of
from nodeagent.server.cache import Cache
from nodeagent.server.parts import ServerSettings
from tests.fakes.kube import Refused as Answer
from tests.nodeagent.server.stand import ACCESS, TOKENS, ReviewKube, running

ALICE = {"username": "alice", "uid": "7", "groups": ["dev"], "extra": {"scopes": ["a"]}}
SUBJECT = {"subject": ((("organizationName", "ops"),), (("commonName", "bob"),))}


class Clock:
    """Monotonic time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Kube:
    """Reviews without a network; ``answers`` are popped."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)

    async def request(self, method: str, path: str, *, body: bytes | None = None) -> bytes:
        """As KubeClient.request."""
        assert (method, path.startswith("/apis/"), body is not None) == ("POST", True, True)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def access(client: Any, problems: Problems | None = None, **changed: Any) -> Access:
    """An Access of node-1."""
    settings = ServerSettings(cert_dir=Path("/c"), root_dir=Path("/r"), **changed)
    return Access(settings, "node-1", client, problems or Problems(), clock=Clock())


async def refused(one: Access, authorization: str = "", certificate: Any = None) -> Refused:
    """The refusal of a GET of /pods."""
    with pytest.raises(Refused) as caught:
        await one.check("GET", "/pods", certificate, authorization)
    return caught.value


async def test_nobody_is_let_in_without_credentials() -> None:
    one = access(Kube(), always_allow=True)
    assert (await refused(one)).status == 401
    assert (await refused(one, "Basic YTpi")).status == 401
    assert (await refused(one, "Bearer ")).status == 401


async def test_anonymous_requests_are_let_in_when_allowed_but_not_with_wrong_credentials() -> None:
    one = access(Kube(b'{"status": {}}'), always_allow=True, anonymous=True)
    assert await one.check("GET", "/pods", None, "") == ANONYMOUS
    assert (await refused(one, "Bearer x")).status == 401


async def test_a_certificates_user_counts_only_where_there_is_a_client_ca() -> None:
    with_ca = access(None, always_allow=True, client_ca="/ca")
    found = await with_ca.check("GET", "/pods", SUBJECT, "")
    assert found == User("bob", ("ops", "system:authenticated"))
    assert (await refused(access(None, always_allow=True), certificate=SUBJECT)).status == 401


@pytest.mark.parametrize("subject", [{}, {"subject": ()}, {"subject": ((("commonName", ""),),)}])
def test_a_certificate_without_a_name_is_nobodys(subject: Any) -> None:
    assert user_of(subject) is None


async def test_without_an_api_server_tokens_are_refused_and_nothing_is_allowed() -> None:
    assert (await refused(access(None, always_allow=True), "Bearer x")).status == 401
    found = await refused(access(None, client_ca="/ca"), certificate=SUBJECT)
    assert found.status == 403
    assert "--authorization-mode=AlwaysAllow" in str(found)


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"null", b'{"status": 7}', b'{"status": {"authenticated": "yes"}}',
     NodeAgentError("gone")],
)  # fmt: skip
async def test_a_review_that_makes_no_sense_lets_nobody_in_and_is_a_named_problem(
    answer: bytes | Exception,
) -> None:
    problems = Problems()
    one = access(Kube(answer, b'{"status": {}}'), problems, always_allow=True)
    assert (await refused(one, "Bearer x")).status == 503
    assert "TokenReview" in problems.all()[0].text
    assert (await refused(one, "Bearer x")).status == 401
    assert problems.all() == ()


@pytest.mark.parametrize(
    "body", ["{}", '{"status": {"authenticated": true}}', '{"status": null}',
             '{"status": {"authenticated": true, "user": {"username": ""}}}',
             '{"status": {"authenticated": false, "user": {"username": "eve"}}}'],
)  # fmt: skip
async def test_a_token_is_somebodys_only_when_the_review_says_whose(body: str) -> None:
    assert (await refused(access(Kube(body.encode()), always_allow=True), "Bearer x")).status == 401


async def test_a_denial_outweighs_an_allowance() -> None:
    body = b'{"status": {"allowed": true, "denied": true, "reason": "frozen"}}'
    found = await refused(access(Kube(body), client_ca="/ca"), certificate=SUBJECT)
    assert (found.status, str(found)) == (403, "bob may not get nodes/proxy of node-1: frozen")


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/stats/summary", "stats"), ("/metrics", "metrics"), ("/metrics/resource", "metrics"),
     ("/logs/x", "log"), ("/spec", "spec"), ("/pods", "proxy"), ("/run/a/b/c", "proxy"),
     ("/containerLogs/a/b/c", "proxy"), ("/statsx", "proxy"), ("", "proxy")],
)  # fmt: skip
def test_paths_belong_to_the_kubelets_subresources(path: str, expected: str) -> None:
    assert subresource(path) == expected


async def test_the_api_server_is_asked_who_it_is_and_whether_they_may_and_asked_once(
    tmp_path: Path,
) -> None:
    async with ReviewKube() as kube, running(tmp_path, kube) as stand:
        kube.people["t0ken"] = ALICE
        kube.allowed.add(("alice", "stats"))
        for _ in range(3):
            status, text = await stand.ask("/pods", bearer="t0ken")
            assert (status, text) == (403, "alice may not get nodes/proxy of node-1: by RBAC\n")
        assert (await stand.ask("/stats/summary", bearer="t0ken"))[0] == 200
        assert (await stand.ask("/pods", bearer="wrong"))[0] == 401
        assert (await stand.ask("/pods", bearer="wrong"))[0] == 401
        assert (kube.count(TOKENS), kube.count(ACCESS)) == (2, 2)
        attributes = {"verb": "get", "version": "v1", "resource": "nodes", "name": "node-1"}
        assert [spec for path, spec in kube.reviews if path == ACCESS] == [
            {
                "user": "alice", "uid": "7", "groups": ["dev", "system:authenticated"],
                "extra": {"scopes": ["a"]},
                "resourceAttributes": attributes | {"subresource": subresource},
            }
            for subresource in ("proxy", "stats")
        ]  # fmt: skip


async def test_a_post_asks_for_create(tmp_path: Path) -> None:
    async with ReviewKube() as kube, running(tmp_path, kube, anonymous=True) as stand:
        assert (await stand.ask("/run/a/b/c?cmd=id", method="POST"))[0] == 403
        assert kube.reviews[0][1]["resourceAttributes"]["verb"] == "create"
        assert kube.reviews[0][1]["user"] == "system:anonymous"


@pytest.mark.parametrize("path", ["/stats/../run/a/b/c", "/%73tats/../pods", "//pods", "/nothing"])
async def test_a_path_without_an_endpoint_is_checked_as_proxy(tmp_path: Path, path: str) -> None:
    async with ReviewKube() as kube, running(tmp_path, kube, anonymous=True) as stand:
        kube.allowed.add(("system:anonymous", "stats"))
        assert (await stand.ask(path))[0] == 403


async def test_while_the_api_server_is_away_known_tokens_are_good_and_others_are_not(
    tmp_path: Path,
) -> None:
    async with ReviewKube() as kube, running(tmp_path, kube, always_allow=True) as stand:
        kube.people["t0ken"] = ALICE
        assert (await stand.ask("/pods", bearer="t0ken"))[0] == 200
        await kube.down()
        assert (await stand.ask("/pods", bearer="t0ken"))[0] == 200
        status, text = await stand.ask("/pods", bearer="other")
        assert status == 503
        assert "cannot be checked" in text
        assert "127.0.0.1" not in text
        assert "reviews" in stand.problems


async def test_an_old_or_unwilling_api_server_lets_nobody_in(tmp_path: Path) -> None:
    async with ReviewKube() as kube, running(tmp_path, kube, anonymous=True) as stand:
        kube.absent.add(TOKENS)
        status, text = await stand.ask("/pods", bearer="x")
        assert status == 503
        assert "knows no TokenReview" in text
        kube.fail("write", Answer(403, "Forbidden"))
        assert (await stand.ask("/pods"))[0] == 503


async def test_an_answer_holds_for_its_time_a_yes_longer_than_a_no() -> None:
    clock = Clock()
    asked: list[bool] = []

    async def ask() -> bool:
        asked.append(True)
        return len(asked) > 1

    cache: Cache[str, bool] = Cache(lambda yes: 300.0 if yes else 30.0, clock)
    assert not await cache.get("k", ask)
    clock.now += 29.0
    assert not await cache.get("k", ask)
    clock.now += 2.0
    assert await cache.get("k", ask)
    clock.now += 299.0
    assert await cache.get("k", ask)
    assert len(asked) == 2


async def test_the_cache_is_bounded_and_drops_what_was_not_used_for_longest() -> None:
    asked: list[int] = []
    cache: Cache[int, int] = Cache(lambda _: 60.0, Clock(), size=3)

    async def get(key: int) -> None:
        async def ask() -> int:
            asked.append(key)
            return key

        assert await cache.get(key, ask) == key

    for key in (1, 2, 3, 1, 4, 1, 2):
        await get(key)
    assert asked == [1, 2, 3, 4, 2]
    assert len(cache) == 3


async def test_who_asks_for_the_same_waits_for_one_answer_even_if_the_first_goes_away() -> None:
    gate = asyncio.Event()
    asked: list[str] = []

    async def ask() -> str:
        asked.append("x")
        await gate.wait()
        return "answer"

    cache: Cache[str, str] = Cache(lambda _: 60.0, Clock())
    first = asyncio.create_task(cache.get("k", ask))
    second = asyncio.create_task(cache.get("k", ask))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    gate.set()
    assert await second == "answer"
    assert asked == ["x"]


async def test_a_failure_is_not_kept() -> None:
    answers: list[Exception | str] = [NodeAgentError("away"), "here"]

    async def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    cache: Cache[str, str] = Cache(lambda _: 60.0, Clock())
    with pytest.raises(NodeAgentError):
        await cache.get("k", ask)
    assert await cache.get("k", ask) == "here"


async def test_only_so_many_questions_are_open_at_once() -> None:
    gate = asyncio.Event()
    open_now = most = 0

    async def ask() -> int:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await gate.wait()
        open_now -= 1
        return 1

    cache: Cache[int, int] = Cache(lambda _: 60.0, Clock(), parallel=2)
    tasks = [asyncio.create_task(cache.get(key, ask)) for key in range(6)]
    for _ in range(10):
        await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*tasks)
    assert most == 2
