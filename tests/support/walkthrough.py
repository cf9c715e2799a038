"""docs/walkthrough.md as a program: its commands are run and what they say is compared.

    parse    the document -> parts (one lab each) -> steps (prompt, command, documented output)
    match    documented and real output -> which value of this run stands for which of the document
    follow   a part's steps in order; each command is told this run's values

A document made in one lab holds in another where only these differ: addresses, random ends of
names, identifiers, ages. Each value but an age stands for one value of the run in the whole
document, and networks of 16 and 24 bits do so, too: an address that comes from another host's
lease, or a pod that has changed its name, is noticed. Lines with such values come in any order
among themselves, because names and addresses sort otherwise in each lab; so do the members of a
list of addresses. A line ``...`` stands for any number of lines. Runs of blanks are one blank.

A comment before a block says more about its commands, separated by ``;``:

    <!-- run: until -->               repeated until it says what is documented
    <!-- run: either node1 node2 -->  which of these hosts is meant is not told beforehand
    <!-- run: without REGEX -->       what matches is not compared

``<!-- lab: NAME -->`` begins the part that runs in the lab called so. To write fresh output into
the document: ``python -m tests.support.walkthrough --write kubernetes=LAB plain=OTHER``, with two
running labs as the document has them brought up.
"""

import argparse
import itertools
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lab.probe import node_environment
from tests.support.kubelab import KubeLab

DOCUMENT = Path("docs/walkthrough.md")
UNTIL_SECONDS = 120.0
COMMAND_SECONDS = 180.0
LEFT_OUT = "..."

_PROMPT = re.compile(r"(?P<host>[a-z][a-z0-9]*)?\$ (?P<text>.*)")
_COMMENT = re.compile(r"<!-- (?P<kind>lab|run): (?P<text>.*) -->")
_ADDRESS = r"\d{1,3}(?:\.\d{1,3}){3}"
_LIST = re.compile(rf"{_ADDRESS}(?::\d+)?(?:,{_ADDRESS}(?::\d+)?)+")
# The characters of random ends are those of Kubernetes' utilrand: no vowels, no 0, 1 and 3.
_ATOM = re.compile(
    rf"""(?<![0-9A-Za-z])(?:
      (?P<address>{_ADDRESS})
    | (?P<uid>[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})
    | (?P<id>(?=[a-f]*[0-9])(?:[0-9a-f]{{64}}|[0-9a-f]{{32}}|[0-9a-f]{{12}}|[0-9a-f]{{8}}))
    | (?P<end>(?<=-)[bcdfghjklmnpqrstvwxz2456789]{{5}})
    | (?P<age>(?:[0-9]+[dhms])+)
    )(?![0-9A-Za-z])""",
    re.VERBOSE,
)
Atom = tuple[str, str]
"""Kind and text; the kind of what has to be as it is, is empty."""
Shell = Callable[[str, str], str]
"""Runs a command on a host, or on the operator's machine for ""; returns all that it says."""


class DocumentError(AssertionError):
    """The document is not as it has to be, or the lab is not as the document says."""


@dataclass(frozen=True, slots=True)
class Step:
    """A command of the document. *at*: index of its line; *host* is "" for the operator's own."""

    at: int
    host: str
    command: str
    output: tuple[str, ...]
    until: bool = False
    either: tuple[str, ...] = ()
    without: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """The steps that run in one lab, in order."""

    lab: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Bindings:
    """What of this run stands for what of the document: (kind, documented) to found, and back."""

    found: Mapping[Atom, str] = field(default_factory=dict)
    documented: Mapping[Atom, str] = field(default_factory=dict)

    def bind(self, kind: str, said: str, found: str) -> "Bindings | None":
        """With *found* for *said*; None when either already stands for something else."""
        if self.found.get((kind, said), found) != found:
            return None
        if self.documented.get((kind, found), said) != said:
            return None
        return Bindings(
            {**self.found, (kind, said): found}, {**self.documented, (kind, found): said}
        )

    def bind_address(self, said: str, found: str, *, anywhere: bool = False) -> "Bindings | None":
        """Likewise with the networks of both. *anywhere*: a new one in any network seen so far."""
        ours, theirs = said.split("."), found.split(".")
        # Networks, gateways and special addresses keep their place.
        fixed = {"0", "1"} & {ours[3], theirs[3]}
        if ours[0] != theirs[0] or (fixed and ours[3] != theirs[3]):
            return None
        if anywhere and ("address", said) not in self.found:
            seen = ("/24", ".".join(theirs[:3])) in self.documented
            return self.bind("address", said, found) if seen else None
        bound = self.bind("/16", ".".join(ours[:2]), ".".join(theirs[:2]))
        bound = bound and bound.bind("/24", ".".join(ours[:3]), ".".join(theirs[:3]))
        return bound and bound.bind("address", said, found)

    def translate(self, command: str) -> str:
        """*command* with the values of this run; raises DocumentError for an unknown address."""

        def value(match: re.Match[str]) -> str:
            kind, said = str(match.lastgroup), match[0]
            special = said.startswith(("0.", "127."))
            if kind == "address" and not special and (kind, said) not in self.found:
                raise DocumentError(f"{command!r}: no output before has shown {said}")
            return self.found.get((kind, said), said)

        return _ATOM.sub(value, command)


def atoms(line: str, step: Step) -> list[Atom]:
    """The fixed texts and the values of a line, in order."""
    line = re.sub(step.without, " ", line) if step.without else line
    line = " ".join(line.split())
    found: list[Atom] = []
    at = 0
    for match in _ATOM.finditer(line):
        found += [("", line[at : match.start()]), (str(match.lastgroup), match[0])]
        at = match.end()
    found.append(("", line[at:]))
    if not step.either:
        return found
    hosts = re.compile(rf"\b({'|'.join(map(re.escape, step.either))})\b")
    split = [(kind, hosts.split(text) if not kind else [text]) for kind, text in found]
    # What a group of split() matched is at the odd places.
    return [
        ("host" if not kind and at % 2 else kind, text)
        for kind, texts in split
        for at, text in enumerate(texts)
    ]


def _same(said: Sequence[Atom], found: Sequence[Atom], known: Bindings, step: Step
) -> Bindings | None:  # fmt: skip
    if [kind for kind, _ in said] != [kind for kind, _ in found]:
        return None
    bound: Bindings | None = known
    for (kind, ours), (_, theirs) in zip(said, found, strict=True):
        if bound is None or (not kind and ours != theirs):
            return None
        if kind == "address":
            bound = bound.bind_address(ours, theirs, anywhere=bool(step.either))
        elif kind and kind not in {"age", "host"}:
            bound = bound.bind(kind, ours, theirs)
    return bound


def _orders(line: str) -> Iterator[str]:
    """The line with its list of addresses in each order."""
    listed = _LIST.search(line)
    if listed is None:
        yield line
        return
    for order in itertools.permutations(listed[0].split(",")):
        yield line[: listed.start()] + ",".join(order) + line[listed.end() :]


def _movable(line: Sequence[Atom]) -> bool:
    return any(kind in {"address", "uid", "id", "end"} for kind, _ in line)


Match = tuple[tuple[int, ...], Bindings]
"""The indices of the real lines that are in the document, and what stands for what."""


def _matches(said: Sequence[str], found: Sequence[tuple[int, str]], known: Bindings, step: Step
) -> Iterator[Match]:  # fmt: skip
    if not said:
        if not found:
            yield (), known
        return
    first, rest = said[0], said[1:]
    if first == LEFT_OUT:
        for skipped in range(len(found) + 1):
            yield from _matches(rest, found[skipped:], known, step)
        return
    for at, (index, line) in enumerate(found):
        theirs = atoms(line, step)
        if at and not _movable(theirs):
            return
        for order in _orders(first):
            bound = _same(atoms(order, step), theirs, known, step)
            if bound is not None:
                left = [*found[:at], *found[at + 1 :]]
                for taken, bindings in _matches(rest, left, bound, step):
                    yield (index, *taken), bindings
        if not _movable(theirs):
            return


def match(step: Step, said: str, known: Bindings) -> Match | None:
    """How *said*, all that the command has said, is what the document has; None when it is not."""
    lines = list(enumerate(said.rstrip("\n").splitlines()))
    return next(_matches(step.output, lines, known, step), None)


# --- the document ---


def parse(document: str) -> tuple[Part, ...]:
    """The parts of a document; raises DocumentError."""
    parts: list[Part] = []
    steps: list[Step] = []
    options: dict[str, str] = {}
    inside = False
    for at, line in enumerate(document.splitlines()):
        comment = _COMMENT.fullmatch(line)
        if inside:
            inside = line != "```"
            if inside:
                _add(steps, at, line, options)
            else:
                options = {}
        elif comment and comment["kind"] == "lab":
            steps = []
            parts.append(Part(comment["text"], ()))
        elif comment:
            options = _options(at, comment["text"])
        elif line == "```console":
            if not parts:
                raise DocumentError(
                    f"line {at + 1}: commands before the first '<!-- lab: NAME -->'"
                )
            inside = True
        if parts:
            parts[-1] = replace(parts[-1], steps=tuple(steps))
    return tuple(parts)


def _options(at: int, text: str) -> dict[str, str]:
    words = (one.strip().partition(" ") for one in text.split(";"))
    found = {name: value for name, _, value in words}
    if unknown := found.keys() - {"until", "either", "without"}:
        raise DocumentError(f"line {at + 1}: {', '.join(unknown)} is no word for 'run:'")
    return found


def _add(steps: list[Step], at: int, line: str, options: Mapping[str, str]) -> None:
    prompt = _PROMPT.fullmatch(line)
    if prompt is not None:
        either = tuple(options.get("either", "").split())
        steps.append(
            Step(at, prompt["host"] or "", prompt["text"], (),
                 "until" in options, either, options.get("without", ""))
        )  # fmt: skip
    elif steps:
        steps[-1] = replace(steps[-1], output=(*steps[-1].output, line))
    else:
        raise DocumentError(f"line {at + 1}: output without a command")


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was taken: the command as it was run, and what of its output is documented."""

    step: Step
    command: str
    output: tuple[str, ...]


def follow(part: Part, shell: Shell, *, within: float = UNTIL_SECONDS) -> Iterator[Done]:
    """Take the steps of *part*; raises DocumentError for the first that says something else."""
    known = Bindings()
    for step in part.steps:
        command = known.translate(step.command)
        deadline = time.monotonic() + within
        while True:
            said = shell(step.host, command)
            found = match(step, said, known)
            if found is not None or not step.until or time.monotonic() > deadline:
                break
        if found is None:
            documented = "\n".join(step.output)
            raise DocumentError(
                f"line {step.at + 1}: {step.host}$ {command}\n"
                f"--- says ---\n{said}\n--- is documented, by other values, as ---\n{documented}"
            )
        taken, known = found
        yield Done(step, command, _shown(said.rstrip("\n").splitlines(), taken))


def _shown(lines: Sequence[str], taken: Sequence[int]) -> tuple[str, ...]:
    """The lines that were taken, in their order, with LEFT_OUT for others."""
    shown: list[str] = []
    for at, line in enumerate(lines):
        if at in taken:
            shown.append(line.rstrip())
        elif not shown or shown[-1] != LEFT_OUT:
            shown.append(LEFT_OUT)
    return tuple(shown)


def written(document: str, done: Sequence[Done]) -> str:
    """*document* with the commands and outputs of a run in place of its own."""
    lines = document.splitlines()
    for one in sorted(done, key=lambda one: one.step.at, reverse=True):
        step = one.step
        head = f"{step.host}$ {one.command}"
        lines[step.at : step.at + 1 + len(step.output)] = [head, *one.output]
    return "\n".join(lines) + "\n"


# --- in a lab ---


class LabShell:
    """Runs commands on the hosts of a lab, and beside it with ``kubectl`` for its API server."""

    def __init__(self, kube: KubeLab, directory: Path) -> None:
        self._kube = kube
        self._directory = directory
        shim = directory / "kubectl"
        words = f"{sys.executable} -m lab lab kubectl --name {kube.name}"
        # The command itself looks for kubectl on PATH.
        path = f"PATH={shlex.quote(os.environ['PATH'])}"
        shim.write_text(f'#!/bin/sh\n{path} exec {words} -- "$@"\n')
        shim.chmod(0o755)

    def __call__(self, host: str, command: str) -> str:
        """All that *command* says; raises DocumentError when it does not end."""
        environment = dict(os.environ)
        argv = ["sh", "-c", command]
        first = self._directory
        if host:
            environment = node_environment(environment)
            argv = self._kube.argv(host, *argv)
            first = Path(sys.executable).parent
        environment["PATH"] = f"{first}:{environment['PATH']}"
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, timeout=COMMAND_SECONDS, check=False, env=environment,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise DocumentError(f"{host}$ {command}: has not ended: {error.output!r}") from None
        return done.stdout


def main() -> int:
    """Follow the document in labs that run; with --write put what they say into it."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.walkthrough")
    parser.add_argument("--write", action="store_true", help="write what is said into the document")
    parser.add_argument("labs", nargs="+", metavar="PART=LAB", help="which lab is for which part")
    given = parser.parse_args()
    labs = dict(word.split("=", 1) for word in given.labs if "=" in word)
    text = DOCUMENT.read_text(encoding="utf-8")
    done: list[Done] = []
    with tempfile.TemporaryDirectory() as directory:
        for part in (one for one in parse(text) if one.lab in labs):
            shell = LabShell(KubeLab(labs[part.lab]), Path(directory))
            try:
                for one in follow(part, shell):
                    sys.stdout.write(f"{one.step.host}$ {one.command}\n")
                    done.append(one)
            except DocumentError as error:
                sys.stderr.write(f"{DOCUMENT}: {error}\n")
                return 1
    if given.write:
        DOCUMENT.write_text(written(text, done), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
