"""Hooks."""

from typing import cast

import pytest

from nodeagent.docker.api import Engine
from nodeagent.errors import PodError
from nodeagent.pods.container import (
    Container,
    Exec,
    Handler,
    HttpGet,
    Lifecycle,
    Sleep,
    TcpSocket,
)
from nodeagent.pods.hooks import run_hook
from tests.nodeagent.probes.stand import FakeEngine, instance, pod_of, serving


async def run(
    handler: Handler, *, engine: FakeEngine | None = None, after_start: bool = True,
    timeout: float = 5.0,
) -> None:  # fmt: skip
    lifecycle = Lifecycle(post_start=handler) if after_start else Lifecycle(pre_stop=handler)
    container = Container("app", lifecycle=lifecycle)
    await run_hook(
        handler, pod_of(container), container, instance(), "127.0.0.1",
        cast("Engine", engine or FakeEngine()), timeout=timeout,
    )  # fmt: skip


async def failing(handler: Handler, **more: object) -> PodError:
    with pytest.raises(PodError) as caught:
        await run(handler, **more)  # type: ignore[arg-type] # passed on as they came
    return caught.value


async def test_a_command_runs_in_its_own_instance() -> None:
    engine = FakeEngine()
    await run(Handler(exec=Exec(("touch", "/x"))), engine=engine)
    assert engine.asked == [("c1", "touch /x")]


@pytest.mark.parametrize(
    ("after_start", "reason"), [(True, "FailedPostStartHook"), (False, "FailedPreStopHook")]
)
async def test_a_failed_command_is_told_with_its_output(after_start: bool, reason: str) -> None:
    engine = FakeEngine()
    engine.codes["c1", "touch /x"] = 2
    engine.output = b"read-only\n"
    error = await failing(
        Handler(exec=Exec(("touch", "/x"))), engine=engine, after_start=after_start
    )
    assert error.reason == reason
    assert error.message.endswith(
        "hook of container app: command touch /x ended with exit code 2: read-only"
    )


async def test_a_command_that_does_not_end_has_failed() -> None:
    engine = FakeEngine()
    engine.hangs = True
    error = await failing(Handler(exec=Exec(("sleep", "9"))), engine=engine)
    assert "did not end within 5 s" in error.message


async def test_docker_trouble_is_a_failure_of_the_hook() -> None:
    engine = FakeEngine()
    engine.down = True
    error = await failing(Handler(exec=Exec(("true",))), engine=engine)
    assert "Docker does not answer" in error.message


async def test_any_answer_to_a_get_is_a_success() -> None:
    answer = b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n"
    async with serving(lambda _: answer) as (port, requests):
        await run(Handler(http_get=HttpGet(port, "/started")))
    assert requests[0].startswith(b"GET /started ")
    assert b"User-Agent: kube-lifecycle/" in requests[0]


async def test_a_get_without_an_answer_is_a_failure() -> None:
    async with serving(lambda _: b"") as (port, _):
        error = await failing(Handler(http_get=HttpGet(port)))
    assert "closed unanswered" in error.message


async def test_a_get_is_bounded_in_time() -> None:
    async with serving(lambda _: b"", hold=True) as (port, _):
        error = await failing(Handler(http_get=HttpGet(port)), timeout=0.05)
    assert "did not end within 0.05 s" in error.message


async def test_a_pause_is_bounded_in_time() -> None:
    await run(Handler(sleep=Sleep(0)), after_start=False)
    error = await failing(Handler(sleep=Sleep(600)), after_start=False, timeout=0.05)
    assert error.reason == "FailedPreStopHook"


@pytest.mark.parametrize(
    ("handler", "wrong"),
    [
        (Handler(tcp_socket=TcpSocket(80)), "tcpSocket is not supported"),
        (Handler(), "none of exec"),
        (Handler(exec=Exec()), "exec.command is empty"),
        (Handler(http_get=HttpGet("web")), "has no port named 'web'"),
    ],
)
async def test_a_hook_that_cannot_be_run_is_named(handler: Handler, wrong: str) -> None:
    assert wrong in (await failing(handler)).message
