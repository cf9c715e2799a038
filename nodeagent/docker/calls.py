"""Calls of the Engine API that take more than one call of the SDK; blocking, run in threads.

*client* is an ``docker.api.client.APIClient``, which has no type information. Whatever it raises
leaves here as an EngineError.
"""

import base64
import contextlib
import os
import signal as signals
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from urllib3.exceptions import HTTPError

from hostkit.errors import cut
from nodeagent.docker import answers
from nodeagent.docker.api import EngineEvent, ExecResult, LogOptions
from nodeagent.docker.frames import Demux, Documents, one_line, refusal
from nodeagent.docker.references import Reference
from nodeagent.docker.threads import Abandoned, Grip, Pump
from nodeagent.errors import EngineConflict, EngineError, EngineNotFound, EngineUnavailable

T = TypeVar("T")

ANSWER = 30.0
"""Seconds in which a stream has to begin."""

PIECE = 32 * 1024
"""Most bytes that are read from a stream at once."""

EVENTS = ("start", "die", "destroy", "oom")
"""The events that are asked for. Those of probes' exec calls would be most of all."""

_BY_STATUS = {404: EngineNotFound, 409: EngineConflict}


@contextlib.contextmanager
def told(*, silent: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Raise what the SDK raises as EngineError; Abandoned once *silent* says so."""
    try:
        yield
    except (OSError, HTTPError, ValueError) as error:
        # A connection that we cut ourselves breaks in any of these ways.
        if silent():
            raise Abandoned from error
        raise translated(error) from error


def translated(error: Exception) -> EngineError:
    """The EngineError for what requests, urllib3 or the SDK raised."""
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        said = getattr(error, "explanation", None)
        text = one_line(str(said or error))
        return _BY_STATUS.get(status, EngineError)(cut(text), status)
    # What is no JSON is an OSError to requests as well.
    if isinstance(error, OSError | HTTPError) and not isinstance(error, ValueError):
        return EngineUnavailable(_why(error))
    return EngineError(cut(one_line(f"Docker's answer cannot be read: {error}")))


def _why(error: BaseException) -> str:
    """A sentence for a broken or silent connection; its cause is deep within requests' error."""
    todo: list[object] = [error]
    text = one_line(str(error))
    for _ in range(20):
        if not todo:
            break
        one = todo.pop(0)
        if "timed out" in str(one).lower() or isinstance(one, TimeoutError):
            return "Docker does not answer in time"
        if isinstance(one, OSError) and one.strerror:
            return f"Docker cannot be reached: {one.strerror}"
        if isinstance(one, BaseException):
            todo += [*one.args, one.__cause__ or one.__context__]
    return f"the connection to Docker broke: {cut(text, 200)}"


# --- single answers ---


def ping(client: Any, within: float) -> None:
    """Ask for a sign of life, which has to come in *within* seconds."""
    client._raise_for_status(client.get(client._url("/_ping"), timeout=within))


def kill(client: Any, container: str, signal: str) -> None:
    """Send a signal; nothing when the container does not run or is gone."""
    try:
        with told():
            client.kill(container, signal)
    except EngineNotFound:
        return
    except EngineError as error:
        # 409 since Docker 18.03; some errors of containerd still come as 500.
        if not any(word in str(error) for word in ("is not running", "process already finished")):
            raise


def remove(client: Any, container: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Delete by force with anonymous volumes; nothing when it is gone."""
    try:
        with told():
            client.remove_container(container, v=True, force=True)
    except EngineNotFound:
        return
    except EngineConflict as error:
        # Another call is at it: its end is what was asked for.
        if "already in progress" not in str(error):
            raise
        for _ in range(50):
            sleep(0.1)
            try:
                with told():
                    client.inspect_container(container)
            except EngineNotFound:
                return
        raise


def remove_image(client: Any, image: str) -> None:
    """Delete an image with all its names; nothing when it is gone."""
    # By id Docker only deletes an image with names in several repositories by force, and force
    # would take it from stopped containers; its names one by one it takes from any.
    try:
        with told():
            found = answers.image(client.inspect_image(image))
            users = client.containers(all=True, filters={"ancestor": found.id})
            if users:
                raise EngineConflict(
                    f"image {found.id[:19]} is in use by container {users[0]['Id'][:12]}", 409
                )
            names = (*found.tags, *found.digests)
            for name in names if len(names) > 1 else ():
                with contextlib.suppress(EngineNotFound), told():
                    client.remove_image(name, force=False)
            client.remove_image(found.id, force=False)
    except EngineNotFound:
        return


def load(client: Any, data: bytes) -> None:
    """Load an archive of images."""
    with told():
        response = client.post(
            client._url("/images/load"),
            params={"quiet": "1"},
            headers={"Content-Type": "application/x-tar"},
            data=data,
            timeout=client.timeout,
        )
        client._raise_for_status(response)
        documents = Documents()
        found = documents.feed(response.content) + documents.end()
    for document in found:
        if refusal(document):
            raise EngineError(refusal(document))


# --- commands in containers ---


def execute(  # noqa: PLR0917 - one call, each argument of it
    client: Any, container: str, argv: Sequence[str], grip: Grip, limit: int, note: list[str]
) -> ExecResult:
    """Run a command; puts the exec's id into *note* before it runs. Raises Abandoned."""
    with told(silent=lambda: grip.cut):
        made = client.exec_create(container, list(argv), stdin=False)["Id"]
        note.append(made)
        if grip.cut:
            raise Abandoned
        # Not the SDK's exec_start: it asks for an upgrade of the connection, and then loses what
        # Docker sends in one packet with the head of its answer.
        response = client.post(
            client._url("/exec/{0}/start", made),
            json={"Detach": False, "Tty": False},
            stream=True,
            timeout=(ANSWER, ANSWER),
        )
        try:
            _endless(client, response)
            grip.watch(response.raw.fileno())
            output = _collect(response.raw.stream(4096), limit)
        finally:
            grip.end()
            response.close()
        if grip.cut:
            raise Abandoned
        return ExecResult(_exit_code(client, made), output)


def _collect(chunks: Iterable[bytes], limit: int) -> bytes:
    demux, output = Demux(), bytearray()
    for chunk in chunks:
        for _, piece in demux.feed(chunk):
            output += piece[: limit - len(output)]
    return bytes(output)


def _exit_code(client: Any, made: str) -> int:
    for _ in range(100):
        state = client.exec_inspect(made)
        if not state.get("Running") and state.get("ExitCode") is not None:
            return int(state["ExitCode"])
        # The output may end a moment before the command does.
        time.sleep(0.02)
    raise EngineError("Docker does not tell the exit code of a command whose output has ended")


def kill_command(client: Any, made: str, container: str) -> None:
    """Kill the command of the exec *made* and its process group, if it can be told for sure."""
    with told():
        state = client.exec_inspect(made)
    pid = state.get("Pid") or 0
    if not state.get("Running") or pid <= 1:
        return
    # Docker has no call for it. The number counts in Docker's PID namespace, which need not be
    # ours: only a process that is in that container's cgroup is killed.
    with contextlib.suppress(OSError):
        if container in Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii"):
            if os.getpgid(pid) == pid:
                os.killpg(pid, signals.SIGKILL)
            else:
                os.kill(pid, signals.SIGKILL)


# --- streams ---


def _endless(client: Any, response: Any) -> None:
    """A stream that has begun may be silent for ever."""
    client._disable_socket_timeout(client._get_raw_response_socket(response))


def pour(
    pump: Pump[T], connect: Callable[[], Any], ask: Callable[[Any], Any],
    feed: Callable[[bytes], Iterable[T]], *, silence: float | None = None,
) -> None:  # fmt: skip
    """Carry a stream to *pump* until it ends; *ask* begins it, *feed* makes items of its bytes.

    *silence* is how many seconds it may be silent, None for ever.
    """
    try:
        with told(silent=lambda: pump.grip.cut):
            client = connect()
            response = ask(client)
            try:
                client._raise_for_status(response)
                if silence is None:
                    _endless(client, response)
                pump.grip.watch(response.raw.fileno())
                for chunk in response.raw.stream(PIECE):
                    for item in feed(chunk):
                        pump.put(item)
            finally:
                response.close()
    except Abandoned:
        pump.end()
    except BaseException as error:  # noqa: BLE001 - it is raised where the stream is read
        pump.end(error)
    else:
        pump.end()


def pour_logs(
    pump: Pump[tuple[int, bytes]], connect: Callable[[], Any], container: str, want: LogOptions,
    since: str,
) -> None:  # fmt: skip
    """The output of a container; *since* is Docker's form of ``want.since``."""
    demux = Demux()
    params = {
        "stdout": int(want.stdout),
        "stderr": int(want.stderr),
        "follow": int(want.follow),
        "timestamps": int(want.timestamps),
        "tail": "all" if want.tail is None else str(max(0, want.tail)),
        **({"since": since} if since else {}),
    }

    def ask(client: Any) -> Any:
        document = client.inspect_container(container)
        demux.tty = bool((document.get("Config") or {}).get("Tty"))
        url = client._url("/containers/{0}/logs", container)
        return client.get(url, params=params, stream=True, timeout=(ANSWER, ANSWER))

    pour(pump, connect, ask, demux.feed)


def pour_events(pump: Pump[EngineEvent], connect: Callable[[], Any], label: str) -> None:
    """Events of containers that have *label*."""
    documents = Documents()
    filters = {"type": ["container"], "label": [label], "event": list(EVENTS)}

    def ask(client: Any) -> Any:
        params = {"filters": msgspec.json.encode(filters).decode()}
        url = client._url("/events")
        return client.get(url, params=params, stream=True, timeout=(ANSWER, ANSWER))

    pour(pump, connect, ask, lambda chunk: map(answers.event, documents.feed(chunk)))


def pour_pull(
    pump: Pump[dict[str, Any]], connect: Callable[[], Any], wanted: Reference,
    auth: Mapping[str, str] | None, silence: float,
) -> None:  # fmt: skip
    """The progress of a pull."""
    # Without a tag Docker would pull all there are.
    params = {"fromImage": wanted.name, "tag": wanted.pull_tag}

    def ask(client: Any) -> Any:
        # Not the SDK's pull: without credentials it takes those of ~/.docker/config.json.
        return client.post(
            client._url("/images/create"),
            params=params,
            headers={"X-Registry-Auth": registry_auth(auth)} if auth else {},
            stream=True,
            timeout=(ANSWER, silence),
        )

    pour(pump, connect, ask, Documents().feed, silence=silence)


def registry_auth(auth: Mapping[str, str]) -> str:
    """The header X-Registry-Auth: JSON in URL-safe base64 (Engine API 1.41, "Authentication")."""
    return base64.urlsafe_b64encode(msgspec.json.encode(dict(auth))).decode()
