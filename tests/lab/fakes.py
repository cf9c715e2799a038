"""A command runner that keeps state and can fail, for the lab's unit tests."""

from collections.abc import Sequence

from hostkit.command import CommandError, Completed


class FakeRunner:
    """Answers commands from ``answer``, which subclasses give a state."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, ...]] = []

    @staticmethod
    def ok(argv: Sequence[str], stdout: str = "") -> Completed:
        """Success."""
        return Completed(tuple(argv), 0, stdout, "")

    @staticmethod
    def fails(argv: Sequence[str], stderr: str) -> Completed:
        """Exit status 1."""
        return Completed(tuple(argv), 1, "", stderr)

    def answer(self, argv: list[str], stdin: str | None) -> Completed:
        """What the command does."""
        raise NotImplementedError(f"no fake for {argv}")

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        timeout: float = 30.0,
        check: bool = True,
    ) -> Completed:
        """See hostkit.command.Runner."""
        self.ran.append(tuple(argv))
        done = self.answer(list(argv), stdin)
        if check and done.returncode:
            raise CommandError(argv, done.returncode, done.stderr, stdin)
        return done
