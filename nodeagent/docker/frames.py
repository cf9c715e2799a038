"""Docker's streams, taken apart: output frames, JSON documents, the progress of a pull."""

import struct
from collections.abc import Mapping
from typing import Any

import msgspec

_HEADER = struct.Struct(">BxxxL")

MOST_DOCUMENT = 1 << 20
"""Bytes of the longest JSON document taken from a stream."""


class Demux:
    """Splits ``application/vnd.docker.raw-stream`` (Engine API 1.41, "Attach to a container").

    Each frame has a stream (0 and 1 output, 2 error, 3 Docker's own error) and a length. Pieces
    are passed on as they come, however frames are cut; of a terminal (*tty*) all is output.
    """

    def __init__(self, *, tty: bool = False) -> None:
        self.tty = tty
        self._head = b""
        self._stream = 1
        self._left = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Pieces with their stream, 1 or 2."""
        if self.tty:
            return [(1, data)] if data else []
        pieces = []
        at = 0
        while at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                pieces.append((self._stream, piece))
                self._left -= len(piece)
                at += len(piece)
                continue
            need = _HEADER.size - len(self._head)
            self._head += data[at : at + need]
            at += need
            if len(self._head) == _HEADER.size:
                stream, self._left = _HEADER.unpack(self._head)
                self._stream = 2 if stream in {2, 3} else 1
                self._head = b""
        return pieces


class Documents:
    """JSON objects out of a stream that has one on each line (pull, load, events)."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The objects that *data* completes; raises ValueError for what is no JSON object."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MOST_DOCUMENT:
            raise ValueError(f"Docker sent a line of more than {MOST_DOCUMENT} bytes")
        return [self._object(line) for line in lines if line.strip()]

    def end(self) -> list[dict[str, Any]]:
        """The object that has no newline after it."""
        rest, self._rest = self._rest, b""
        return [self._object(rest)] if rest.strip() else []

    @staticmethod
    def _object(line: bytes) -> dict[str, Any]:
        try:
            found = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise ValueError(f"Docker sent what is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise ValueError(f"Docker sent {type(found).__name__} where an object is due")
        return found


class PullProgress:
    """How far a pull is, out of the documents of POST /images/create."""

    def __init__(self) -> None:
        self._layers: dict[str, tuple[int, int, bool]] = {}  # loaded, size, done

    def feed(self, document: Mapping[str, Any]) -> None:
        """Take one document; unknown ones say nothing."""
        layer, status = document.get("id"), document.get("status")
        if not isinstance(layer, str) or not isinstance(status, str):
            return
        # The first line has the tag in place of a layer's id.
        if status.startswith("Pulling from"):
            return
        loaded, size, done = self._layers.get(layer, (0, 0, False))
        detail = document.get("progressDetail")
        if status == "Downloading" and isinstance(detail, Mapping):
            loaded = _whole(detail.get("current"), loaded)
            size = _whole(detail.get("total"), size)
        elif status in {"Download complete", "Extracting", "Verifying Checksum"}:
            loaded = size
        elif status in {"Pull complete", "Already exists"}:
            loaded, done = size, True
        self._layers[layer] = loaded, size, done

    @property
    def text(self) -> str:
        """Such as ``2 of 5 layers, 12.3 of 80.1 MB``."""
        layers = self._layers.values()
        done = sum(1 for layer in layers if layer[2])
        loaded, size = (sum(layer[n] for layer in layers) / 1e6 for n in (0, 1))
        return f"{done} of {len(layers)} layers, {loaded:.1f} of {size:.1f} MB"


def _whole(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and value >= 0 else otherwise


def refusal(document: Mapping[str, Any]) -> str:
    """The error that a document of a stream tells, "" for none."""
    detail = document.get("errorDetail")
    told = detail.get("message") if isinstance(detail, Mapping) else None
    return one_line(str(told or document.get("error") or ""))


def one_line(text: str) -> str:
    """*text* with all white space made single blanks."""
    return " ".join(text.split())
