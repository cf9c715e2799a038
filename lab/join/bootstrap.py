"""A new control plane at its API server: until it answers, and what it has to know then.

Whatever fails meanwhile counts as not yet: API servers come up in parts. What came last is in the
error when the time is over.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from hostkit.errors import HostkitError
from lab.errors import LabError
from lab.join import objects, registration, tokens
from lab.join.api import Api
from lab.join.hostservices import Report
from lab.join.objects import Placed
from lab.join.tokens import Token

_POLL = 0.5


def now_utc() -> datetime:
    """The time, with a time zone."""
    return datetime.now(UTC)


class Waiting:
    """Steps that are tried until they succeed, all of them within *timeout* seconds.

    *report* takes a subject and a line of progress; *clock* and *sleep* count seconds.
    """

    def __init__(
        self,
        report: Report,
        timeout: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._report = report
        self._timeout = timeout
        self._clock = clock
        self._sleep = sleep
        self._deadline = clock() + timeout

    async def until(
        self, subject: str, lacks: str, attempt: Callable[[], Awaitable[str]], hint: str = ""
    ) -> None:
        """Try until *attempt* returns ""; what else it returns, or raises, is waited for.

        *subject* leads lines of progress. When the time is over it raises LabError that begins
        with what it *lacks*; *hint* says where to look.
        """
        said, last = "", ""
        while True:
            try:
                last = await attempt()
                if not last:
                    return
                if last != said:
                    said = last
                    self._report(subject, last)
            except HostkitError as error:
                last = str(error)
            if self._clock() >= self._deadline:
                where = f"; {hint}" if hint else ""
                raise LabError(f"{lacks} after {self._timeout:g} s: {last}{where}")
            await self._sleep(_POLL)


async def put(api: Api, placed: Iterable[Placed]) -> None:
    """Have the objects at the API server; what says the same already is left alone."""
    for collection, document in placed:
        found = await api.get(f"{collection}/{document['metadata']['name']}")
        if found is None or not objects.fits(found, document):
            await api.ensure(collection, document)


async def put_token(
    api: Api, token: Token, ttl: timedelta | None, description: str, now: datetime
) -> datetime | None:
    """Make *token* valid for *ttl*, None for ever; returns when it ends."""
    expires = None if ttl is None else now + ttl
    secret = tokens.secret_of(token, expires=expires, description=description)
    await api.ensure(tokens.COLLECTION, secret)
    return expires


async def answering(api: Api, states: Callable[[], Awaitable[str]]) -> str:
    """ "" when the API server answers and its namespaces are made, else how the *states* are."""
    try:
        found = await api.get("/api/v1/namespaces/kube-public")
    except HostkitError:
        if text := await states():
            return text
        raise
    return "" if found is not None else "the API server makes its namespaces"


async def make_master(api: Api, name: str, *, schedule_pods: bool) -> str:
    """Give the node *name* its roles; "" when it is Ready, else what is waited for.

    With *schedule_pods* it loses the taint that keeps pods away.
    """
    path = f"/api/v1/nodes/{name}"
    node = await api.get(path)
    if node is None:
        return "waiting for its registration"
    labels = node["metadata"].get("labels") or {}
    if any(label not in labels for label in objects.ROLE_LABELS):
        body = {"metadata": {"labels": dict.fromkeys(objects.ROLE_LABELS, "")}}
        await api.call("PATCH", path, body)
    taints = node.get("spec", {}).get("taints") or []
    kept = [taint for taint in taints if taint.get("key") not in objects.ROLE_LABELS]
    if schedule_pods and len(kept) < len(taints):
        await api.call("PATCH", path, {"spec": {"taints": kept}})
    state = registration.readiness(node)
    return "" if state.ready else f"waiting for it to be Ready: {state.why}"


def container_states(lines: str) -> str:
    """What ``docker ps`` with ``STATES_FORMAT`` says, newest first, as one line."""
    found: dict[str, str] = {}
    for line in lines.splitlines():
        name, _, state = line.partition("\t")
        found.setdefault(name, state)
    return ", ".join(f"{name} {state}" for name, state in sorted(found.items()))


STATES_FORMAT = '{{.Label "io.kubernetes.container.name"}}\t{{.State}}'
"""What ``docker ps`` is to say of each container; the label is nodeagent's."""


def states_argv(docker: str) -> Sequence[str]:
    """The command that lists the control plane's containers, newest first."""
    filters = ("io.kubernetes.pod.namespace=kube-system", "io.kubernetes.docker.type=container")
    words = [word for label in filters for word in ("--filter", f"label={label}")]
    return [docker, "ps", "--all", *words, "--format", STATES_FORMAT]


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """What ``barenode init`` answers. *expires* is RFC 3339, "" for a token that never does."""

    node: str
    address: str
    server: str
    ca_hash: str
    token: str
    expires: str
    join: str
    kubeconfig: str
