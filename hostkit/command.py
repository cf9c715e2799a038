"""Running other programs: a protocol for those who need it, and the real runner.

A failure carries argv, exit status, stderr and the input, all cut short, because
that is what an operator needs in order to run the same command by hand.
"""

import asyncio
import contextlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hostkit.errors import HostkitError, cut


@dataclass(frozen=True, slots=True)
class Completed:
    """What a finished command left behind."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


class CommandError(HostkitError):
    """A command failed, timed out or could not be started.

    ``returncode`` is None when the command never started or was ended at its deadline.
    """

    def __init__(
        self, argv: Sequence[str], returncode: int | None, stderr: str, stdin: str | None = None
    ) -> None:
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stderr = stderr
        self.stdin = stdin
        how = "did not run" if returncode is None else f"exit status {returncode}"
        text = f"{shlex.join(self.argv)}: {how}: {cut(stderr) or 'no message'}"
        if stdin:
            text += f" (input: {cut(stdin, 400)})"
        super().__init__(text)


class Runner(Protocol):
    """Runs one command to its end."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        timeout: float = 30.0,
        check: bool = True,
    ) -> Completed:
        """Run *argv* with *stdin* as its input, for at most *timeout* seconds.

        Raises CommandError when it cannot start, overruns, or (with *check*) exits non-zero.
        """
        ...


class SubprocessRunner:
    """The Runner that starts real processes."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        timeout: float = 30.0,
        check: bool = True,
    ) -> Completed:
        """Run *argv*; see Runner.run."""
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise CommandError(argv, None, f"cannot start: {error.strerror or error}") from error
        data = stdin.encode() if stdin is not None else None
        try:
            async with asyncio.timeout(timeout):
                out, err = await process.communicate(data)
        except TimeoutError as error:
            raise CommandError(argv, None, f"no end after {timeout:g} s, stopped", stdin) from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        result = Completed(
            tuple(argv),
            process.returncode if process.returncode is not None else -1,
            out.decode(errors="replace"),
            err.decode(errors="replace"),
        )
        if check and result.returncode != 0:
            raise CommandError(argv, result.returncode, result.stderr, stdin)
        return result
