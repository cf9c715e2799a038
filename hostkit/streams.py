"""Reading long answers that come in pieces: lines out of chunks."""


class Lines:
    """Splits a stream of bytes into lines; keeps only the incomplete last one, ``rest``.

    A line longer than *limit* bytes raises ValueError (0: no limit).
    """

    def __init__(self, limit: int = 0) -> None:
        self._limit = limit
        self._rest = bytearray()

    @property
    def rest(self) -> bytes:
        """What was fed since the last line ended."""
        return bytes(self._rest)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines completed by *chunk*, empty ones left out."""
        if b"\n" not in chunk:
            self._rest += chunk
            self._check(self._rest)
            return []
        *lines, rest = chunk.split(b"\n")
        if self._rest:
            lines[0] = bytes(self._rest) + lines[0]
        self._check(lines[0])
        self._rest = bytearray(rest)
        return [line for line in lines if line]

    def _check(self, line: bytes | bytearray) -> None:
        if self._limit and len(line) > self._limit:
            raise ValueError(f"a line is longer than {self._limit} bytes")
