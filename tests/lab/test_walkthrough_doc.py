"""The comparer of docs/walkthrough.md: another lab's output is the same, a wrong one is not."""

import re
from collections.abc import Callable

import pytest

from tests.support.walkthrough import (
    DOCUMENT,
    LEFT_OUT,
    Bindings,
    DocumentError,
    Part,
    Step,
    follow,
    match,
    parse,
    written,
)

TEXT = DOCUMENT.read_text(encoding="utf-8")
PARTS = parse(TEXT)
STEPS = [step for part in PARTS for step in part.steps]


def elsewhere(text: str) -> str:
    """The same in another lab: other networks and addresses, other random ends and identifiers."""

    def address(found: re.Match[str]) -> str:
        first, second, third, fourth = map(int, found[0].split("."))
        if first in {0, 127}:
            return found[0]
        moved = (third * 7 + 3) % 256 if third else 0
        return f"{first}.{second + 1}.{moved}.{fourth if fourth < 2 else 255 - fourth}"

    def turned(found: re.Match[str]) -> str:
        # Each class of characters onto itself: what has a digit still has one.
        return found[0].translate(str.maketrans("bcdfghjk23456789", "cdfghjkb34567892"))

    text = re.sub(r"\b\d+\.\d+\.\d+\.\d+\b", address, text)
    text = re.sub(r"(?<=nginx-)[a-z0-9]{5}(?![a-z0-9])", turned, text)
    return re.sub(r"(?<![0-9a-f])[0-9a-f]{12}(?![0-9a-f])", turned, text)


def aged(text: str) -> str:
    """The same at another time."""
    return re.sub(r"(?<![0-9A-Za-z])(\d+[smh])+(?![0-9A-Za-z])", "4m9s", text)


def same(text: str) -> str:
    """The same."""
    return text


class Replay:
    """A lab that says what the document says, with *change* applied."""

    def __init__(self, part: Part, change: Callable[[str], str]) -> None:
        self._left = list(part.steps)
        self._change = change
        self.asked: list[str] = []

    def __call__(self, host: str, command: str) -> str:
        step = self._left.pop(0)
        assert step.host == host
        self.asked.append(command)
        return "\n".join(map(self._change, step.output)) + "\n"


def test_the_document_has_a_part_for_each_lab_and_says_what_each_command_says() -> None:
    """All that is between prompts is output; only a few commands say nothing."""
    assert [part.lab for part in PARTS] == ["kubernetes", "plain"]
    silent = [step.command for step in STEPS if not step.output]
    assert all("docker ps -a -q" in command for command in silent), silent
    assert len(STEPS) > 40


def test_the_document_holds_nothing_of_the_machine_that_wrote_it() -> None:
    """Neither its folders nor its kernel."""
    assert not re.search(r"/(work|home|tmp|root|Users)/", TEXT)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: str(part.lab))
@pytest.mark.parametrize(("change", "asked"), [(aged, same), (elsewhere, elsewhere)])
def test_the_story_holds_in_any_lab_at_any_time(
    part: Part, change: Callable[[str], str], asked: Callable[[str], str]
) -> None:
    """And the commands are given the values of that lab."""
    replay = Replay(part, change)
    done = list(follow(part, replay, within=0))
    assert [one.step for one in done] == list(part.steps)
    assert replay.asked == [asked(step.command) for step in part.steps]


def _reaches(steps: list[Step], lines: tuple[str, ...]) -> bool:
    """Whether the last of *steps* may say *lines* after the others said what is documented."""
    known = Bindings()
    for step in steps[:-1]:
        found = match(step, "\n".join(step.output), known)
        assert found is not None, step
        known = found[1]
    return match(steps[-1], "\n".join(lines), known) is not None


def _each_line() -> list[tuple[list[Step], int]]:
    return [
        (list(part.steps[: at + 1]), line)
        for part in PARTS
        for at, step in enumerate(part.steps)
        for line, text in enumerate(step.output)
        if text != LEFT_OUT
    ]


def test_no_line_may_be_missing_doubled_or_changed() -> None:
    """Each line of each output, after all that came before it was as documented."""
    for steps, at in _each_line():
        lines = steps[-1].output
        line = lines[at]
        changed = re.sub(r"[A-Za-z]{4,}", lambda found: found[0] + "X", line, count=1)
        if changed == line:
            changed = line + " X"
        if LEFT_OUT not in lines:
            assert not _reaches(steps, (*lines[:at], *lines[at + 1 :])), line
            assert not _reaches(steps, (*lines[: at + 1], *lines[at:])), line
        assert not _reaches(steps, (*lines[:at], changed, *lines[at + 1 :])), changed


def test_an_address_that_has_been_seen_stands_for_no_other() -> None:
    """Where its host, pod or service has been shown before."""
    tried = 0
    for steps, at in _each_line():
        before = "\n".join(line for step in steps[:-1] for line in step.output)
        line = steps[-1].output[at]
        for said in re.findall(r"\d+\.\d+\.\d+\.\d+", line):
            lines = list(steps[-1].output)
            if before.count(said) and "\n".join(lines).count(said) == 1:
                lines[at] = line.replace(said, re.sub(r"\d+$", "77", said))
                tried += 1
                assert not _reaches(steps, tuple(lines)), line
    assert tried > 10


STORY = """
<!-- lab: here -->
```console
node1$ lease
10.1.5.1/24
node2$ lease
10.1.6.1/24
$ pods
NAME     IP        NODE   AGE
a-bcdfg  10.1.5.2  node1  5s
a-hjklm  10.1.6.2  node2  5s
$ list
10.1.5.2:80,10.1.6.2:80
```

<!-- run: either node1 node2 -->
```console
$ third
a-npqrs  10.1.5.3  node1  1m2s
```

```console
$ describe
Name: a
...
IP: 10.1.6.2
```
"""
LEASES = ["10.7.9.1/24", "10.7.8.1/24"]
HEAD = "NAME IP NODE AGE"
ONE, TWO = "a-xxxx2 10.7.9.4 node1 1s", "a-bbbb2 10.7.8.4 node2 1s"


def tell(*said: str) -> str:
    """What is wrong when the lab says *said* one after the other; "" when nothing is."""
    (part,) = parse(STORY)
    answers = iter(said)
    cut = Part(part.lab, part.steps[: len(said)])
    try:
        list(follow(cut, lambda _host, _command: next(answers), within=0))
    except DocumentError as error:
        return str(error)
    return ""


def test_rows_come_in_any_order_and_lists_too() -> None:
    """Names and addresses sort otherwise in another lab; the head of a table stays its head."""
    listed = "10.7.8.4:80,10.7.9.4:80"
    assert tell(*LEASES, f"{HEAD}\n{TWO}\n{ONE}", listed) == ""
    assert tell(*LEASES, f"{HEAD}\n{ONE}\n{TWO}", listed) == ""
    assert "pods" in tell(*LEASES, f"{ONE}\n{HEAD}\n{TWO}")


@pytest.mark.parametrize(
    "rows",
    [
        (ONE.replace("node1", "node2"), TWO.replace("node2", "node1")),  # on the other's lease
        (ONE, TWO.replace("10.7.8", "10.7.9")),  # both on one lease
        (ONE, TWO.replace("10.7.8", "10.9.8")),  # outside the network
        (ONE, TWO.replace("a-bbbb2", "a-xxxx2")),  # one name twice
        (ONE, TWO.replace("a-bbbb2", "b-bbbb2")),  # another controller's
        (ONE, TWO.replace("1s", "never")),  # no age
        (ONE,),
        (ONE, TWO, "a-cccc2 10.7.8.5 node2 1s"),
    ],
)  # fmt: skip
def test_pods_that_are_not_where_the_document_has_them_are_noticed(rows: tuple[str, ...]) -> None:
    """Addresses come from the lease of the pod's own host."""
    assert "pods" in tell(*LEASES, "\n".join((HEAD, *rows)))


def test_what_the_scheduler_chooses_is_free_within_the_hosts_and_leases() -> None:
    """The third pod may be on either host, but not outside their leases."""
    first = (*LEASES, f"{HEAD}\n{ONE}\n{TWO}", "10.7.8.4:80,10.7.9.4:80")
    assert tell(*first, "a-tttt2 10.7.8.5 node2 1s") == ""
    assert "third" in tell(*first, "a-tttt2 10.7.7.5 node2 1s")
    assert "third" in tell(*first, "a-tttt2 10.7.8.5 node3 1s")


def test_lines_that_are_left_out_may_be_anything_but_the_others_may_not() -> None:
    """As kubectl of different releases describe the same by more or fewer lines."""
    first = (*LEASES, f"{HEAD}\n{ONE}\n{TWO}", "10.7.8.4:80,10.7.9.4:80", ONE.replace(".4 ", ".6 ")
             .replace("xxxx", "tttt"))  # fmt: skip
    assert tell(*first, "Name: a\nIP: 10.7.8.4") == ""
    assert tell(*first, "Name: a\nFamily: any\nMore\nIP: 10.7.8.4") == ""
    assert "describe" in tell(*first, "Name: a\nFamily: any\nIP: 10.7.9.4")


def test_commands_are_repeated_only_where_the_document_says_so() -> None:
    """Until they say what is documented."""
    (part,) = parse("<!-- lab: x -->\n<!-- run: until -->\n```console\n$ look\nyes\n```\n")
    answers = iter(("no", "not yet", "yes"))
    (done,) = follow(part, lambda _host, _command: next(answers), within=60)
    assert done.output == ("yes",)


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ("```console\n$ x\n```\n", "before the first"),
        ("<!-- lab: x -->\n```console\nno command\n```\n", "line 3: output without a command"),
        ("<!-- lab: x -->\n<!-- run: untli -->\n", "untli is no word"),
    ],
)
def test_a_document_that_cannot_be_followed_is_refused_with_its_line(
    document: str, fault: str
) -> None:
    """By the person who edits it."""
    with pytest.raises(DocumentError, match=fault):
        parse(document)


def test_an_address_that_nothing_has_shown_cannot_be_asked_for() -> None:
    """It would be one of the lab in which the document was made."""
    (part,) = parse("<!-- lab: x -->\n```console\n$ curl 10.2.3.4\n```\n")
    with pytest.raises(DocumentError, match=r"no output before has shown 10\.2\.3\.4"):
        list(follow(part, Replay(part, same)))


def test_a_run_that_is_written_down_is_the_document_of_that_lab() -> None:
    """Twice written is once written; what was left out stays left out."""
    done = [one for part in PARTS for one in follow(part, Replay(part, elsewhere), within=0)]
    other = written(TEXT, done)
    assert other != TEXT
    again = [one for part in parse(other) for one in follow(part, Replay(part, same), within=0)]
    assert written(other, again) == other
    assert [step.output.count(LEFT_OUT) for part in parse(other) for step in part.steps] == [
        step.output.count(LEFT_OUT) for step in STEPS
    ]
