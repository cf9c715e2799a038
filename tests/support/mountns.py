"""A mount namespace for one piece of work."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from hostkit.mounts import MS_PRIVATE, MS_REC, mount
from lab.syscalls import CLONE_NEWNS, unshare


def isolated(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run *work* in a thread with a mount namespace of its own, which ends with it.

    Threads and processes that *work* starts are in it, too. Raises what *work* raises.
    """
    problems: list[BaseException] = []

    def body() -> None:
        try:
            unshare(CLONE_NEWNS)
            mount("none", "/", flags=MS_REC | MS_PRIVATE)
            asyncio.run(work())
        except BaseException as error:  # noqa: BLE001 - raised in the test's thread
            problems.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]
