"""Termination messages."""

import os
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from nodeagent.docker.api import Engine
from nodeagent.errors import EngineUnavailable
from nodeagent.pods.container import Container
from nodeagent.pods.host import Host
from nodeagent.pods.messages import LIMIT, LOG_BYTES, LOG_LINES, POD_LIMIT, termination_message
from tests.nodeagent.probes.stand import FakeEngine, instance, pod_of

FALLBACK = Container("app", termination_message_policy="FallbackToLogsOnError")


class Stand:
    def __init__(self, root: Path) -> None:
        self.host = Host("n1", "10.0.0.1", "n1", root)
        self.engine = FakeEngine()
        self.path = self.host.termination_log("u1", "app", 2)
        self.path.parent.mkdir(parents=True)

    async def message(self, *containers: Container, code: int = 1) -> str:
        containers = containers or (Container("app"),)
        seen = replace(instance(attempt=2), state="exited", exit_code=code)
        engine = cast("Engine", self.engine)
        return await termination_message(
            engine, self.host, pod_of(*containers), containers[0], seen
        )


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


async def test_the_file_of_this_attempt_is_the_message(stand: Stand) -> None:
    stand.path.write_text("out of cheese\n")
    stand.path.with_name("1").write_text("older")
    assert await stand.message() == "out of cheese\n"


async def test_no_file_is_no_message(stand: Stand) -> None:
    stand.engine.log = [b"log"]
    assert await stand.message() == ""


async def test_of_a_huge_file_its_end_is_read(stand: Stand) -> None:
    with stand.path.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0, os.SEEK_END)
        file.write(b"end")
    text = await stand.message()
    assert text.endswith("\0end")
    assert len(text) == LIMIT


async def test_the_containers_of_a_pod_share_its_limit(stand: Stand) -> None:
    stand.path.write_bytes(b"x" * LIMIT)
    others = tuple(Container(f"c{number}") for number in range(5))
    assert len(await stand.message(Container("app"), *others)) == POD_LIMIT // 6


async def test_bytes_that_are_no_text_stay_within_the_limit(stand: Stand) -> None:
    stand.path.write_bytes(b"\xff" * LIMIT)
    text = await stand.message()
    assert set(text) == {"\ufffd"}
    assert LIMIT - 3 < len(text.encode()) <= LIMIT


async def test_a_link_is_not_followed(stand: Stand, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    stand.path.symlink_to(tmp_path / "secret")
    assert "cannot be read" in await stand.message()


async def test_a_pipe_does_not_block(stand: Stand) -> None:
    os.mkfifo(stand.path)
    assert "no regular file" in await stand.message()


async def test_the_log_stands_in_for_an_empty_file_after_an_error(stand: Stand) -> None:
    stand.path.touch()
    stand.engine.log = [b"a" * 1500, b"b" * 1500]
    assert await stand.message(FALLBACK) == "a" * (LOG_BYTES - 1500) + "b" * 1500
    options = stand.engine.options
    assert options is not None
    assert (options.tail, options.follow) == (LOG_LINES, False)


async def test_the_log_is_not_read_when_it_is_not_needed(stand: Stand) -> None:
    stand.engine.log = [b"log"]
    assert await stand.message(FALLBACK, code=0) == ""
    assert await stand.message(Container("app")) == ""
    stand.path.write_text("file")
    assert await stand.message(FALLBACK) == "file"
    assert stand.engine.options is None


async def test_a_log_that_docker_does_not_give_is_an_error(stand: Stand) -> None:
    stand.engine.down = True
    with pytest.raises(EngineUnavailable):
        await stand.message(FALLBACK)
