"""The log: journald priorities, UTC times, and no traceback before verbosity 2."""

import logging
import re
from collections.abc import Iterator

import pytest

from hostkit import logs

NAMES = ("", "asyncio", "aiohttp", "pyroute2", "urllib3", "docker")
log = logging.getLogger("netd.test")


class Output:
    """Standard error during one test."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def getvalue(self) -> str:
        """All that was written."""
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Iterator[Output]:
    """Standard error; the loggers are put back as they were."""
    root = logging.getLogger()
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in NAMES}
    yield Output(capsys)
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def fail() -> None:
    """Log an error with its traceback."""
    try:
        raise RuntimeError("inner fault")
    except RuntimeError:
        log.exception("it failed")


@pytest.mark.parametrize(
    ("level", "prefix"),
    [
        (logging.CRITICAL, "<2>"),
        (logging.ERROR, "<3>"),
        (logging.WARNING, "<4>"),
        (logging.INFO, "<6>"),
        (logging.DEBUG, "<7>"),
    ],
)
def test_under_journald_a_line_is_its_priority_and_its_text(
    output: Output, level: int, prefix: str
) -> None:
    logs.setup(1, {"JOURNAL_STREAM": "8:1"})
    log.log(level, "lease %s", "held")
    assert output.getvalue() == f"{prefix}lease held\n"


def test_under_journald_each_line_of_one_event_has_the_priority(output: Output) -> None:
    logs.setup(2, {"JOURNAL_STREAM": "8:1"})
    fail()
    lines = output.getvalue().splitlines()
    assert len(lines) > 2
    assert all(line.startswith("<3>") for line in lines)


@pytest.mark.parametrize("environ", [{}, {"JOURNAL_STREAM": "8:1"}])
def test_what_others_wrote_cannot_look_like_a_line_of_ours_nor_steer_a_terminal(
    output: Output, environ: dict[str, str]
) -> None:
    logs.setup(0, environ)
    log.warning("record %s", "one\n<6>two\r\x1b[2J\u2028\udcff\x00\u202eé")
    (line,) = output.getvalue().splitlines()
    assert line.endswith(r"record one\n<6>two\r\x1b[2J\u2028\udcff\x00\u202eé")


def test_an_empty_event_is_a_line_too(output: Output) -> None:
    logs.setup(0, {"JOURNAL_STREAM": "8:1"})
    log.warning("")
    assert output.getvalue() == "<4>\n"


def test_elsewhere_a_line_begins_with_a_utc_time_and_the_level(output: Output) -> None:
    logs.setup(0, {})
    log.warning("look")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ WARNING look\n", output.getvalue()), (
        output.getvalue()
    )


@pytest.mark.parametrize(("verbosity", "shown"), [(0, False), (1, False), (2, True), (3, True)])
@pytest.mark.parametrize("environ", [{}, {"JOURNAL_STREAM": "8:1"}])
def test_a_traceback_is_shown_from_verbosity_two_on(
    output: Output, verbosity: int, shown: bool, environ: dict[str, str]
) -> None:
    logs.setup(verbosity, environ)
    fail()
    assert "it failed" in output.getvalue()
    assert ("Traceback" in output.getvalue()) is shown
    assert ("inner fault" in output.getvalue()) is shown


@pytest.mark.parametrize(("verbosity", "shown"), [(0, False), (1, True)])
def test_debug_lines_are_shown_from_verbosity_one_on(
    output: Output, verbosity: int, shown: bool
) -> None:
    logs.setup(verbosity, {})
    log.debug("detail")
    log.info("news")
    assert ("detail" in output.getvalue()) is shown
    assert "news" in output.getvalue()


@pytest.mark.parametrize(("verbosity", "shown"), [(0, False), (2, False), (3, True)])
def test_libraries_chatter_only_from_verbosity_three_on(
    output: Output, verbosity: int, shown: bool
) -> None:
    logs.setup(verbosity, {})
    logging.getLogger("pyroute2").info("chatter")
    assert ("chatter" in output.getvalue()) is shown


def test_setting_up_twice_does_not_double_the_lines(output: Output) -> None:
    logs.setup(0, {})
    logs.setup(0, {})
    log.warning("once")
    assert output.getvalue().count("once") == 1
