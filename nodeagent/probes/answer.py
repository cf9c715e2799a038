"""The beginning of an HTTP/1.x response (RFC 9112), read without a connection."""

from dataclasses import dataclass

BODY = 10 * 1024
"""Bytes of a body that are read, the kubelet's limit for probes."""
HEAD = 64 * 1024
"""Bytes that a status line and headers may have together."""
_BODILESS = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class Answer:
    """*status* is 200 to 999; *body* is at most BODY bytes of it, still with its chunk marks."""

    status: int
    location: str = ""
    body: bytes = b""


def read_answer(data: bytes, *, ended: bool) -> Answer | None:
    """The response in *data*, None while more of it is needed; *ended* says that no more comes.

    Raises ValueError when it is none, or is cut short.
    """
    while True:
        end, gap = _head_end(data)
        if end < 0:
            if len(data) > HEAD:
                raise ValueError(f"the headers of the answer are larger than {HEAD} bytes")
            if len(data) >= 5 and not data.startswith(b"HTTP/"):
                raise ValueError("the answer is not HTTP")
            if ended:
                raise ValueError(
                    "the answer is cut short" if data else "the connection was closed unanswered"
                )
            return None
        lines = data[:end].decode("latin-1").split("\n")
        status, data = _status(lines[0]), data[end + gap :]
        if status >= 200:
            break
        if status == 101:
            raise ValueError("the answer switches to another protocol")
    headers = dict(_header(line) for line in reversed(lines[1:]))
    answer = Answer(status, headers.get("location", ""), data[:BODY])
    if _complete(status, headers, data) or len(data) >= BODY:
        return answer
    if not ended:
        return None
    if "content-length" in headers or "chunked" in headers.get("transfer-encoding", "").lower():
        raise ValueError("the body of the answer is cut short")
    return answer


def _head_end(data: bytes) -> tuple[int, int]:
    found = [(at, len(gap)) for gap in (b"\r\n\r\n", b"\n\n") if (at := data.find(gap)) >= 0]
    return min(found, default=(-1, 0))


def _status(line: str) -> int:
    version, _, rest = line.partition(" ")
    code = rest.lstrip()[:3]
    if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdecimal()):
        raise ValueError("the answer is not HTTP/1")
    if len(code) != 3 or int(code) < 100:
        raise ValueError(f"the answer has the status {code}, which HTTP does not have")
    return int(code)


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()


def _complete(status: int, headers: dict[str, str], data: bytes) -> bool:
    """Whether all of the body is in *data*."""
    if status in _BODILESS:
        return True
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return _chunks_end(data)
    length = headers.get("content-length", "")
    if not length:
        return False
    if not (length.isascii() and length.isdecimal()):
        raise ValueError(f"the answer has the Content-Length {length[:40]}, which is no number")
    return len(data) >= int(length[:18])


def _chunks_end(data: bytes) -> bool:
    at = 0
    while (line := data.find(b"\r\n", at)) >= 0:
        size = data[at:line].split(b";", 1)[0].strip()
        try:
            length = int(size, 16)
        except ValueError as error:
            raise ValueError("the body of the answer has a chunk without a size") from error
        if length < 0:
            raise ValueError("the body of the answer has a chunk of negative size")
        if length == 0:
            return True
        at = line + 2 + length + 2
        if at > len(data):
            return False
    return False
