"""Images for containers: there already, or pulled; few pulls at once, one for each image.

Containers that want the same image with the same credentials share a pull. One with other
credentials waits for its end and pulls by itself: who may not have an image must not get it
because another may.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nodeagent.api.port import Recorder, SecretData
from nodeagent.docker.api import Engine, Image
from nodeagent.docker.keychain import Keychain
from nodeagent.docker.references import Reference, parse
from nodeagent.errors import EngineError, EngineUnavailable, PodError
from nodeagent.pods.container import Container
from nodeagent.pods.model import Pod

log = logging.getLogger(__name__)

REPORT = 10.0
"""Seconds between two lines in the log about one pull."""

_DENIED = ("denied", "unauthorized", "authentication required", "forbidden", "no basic auth")

Auths = tuple[Mapping[str, str] | None, ...]


@dataclass(slots=True)
class _Pull:
    """A pull that is under way, and how many wait for it."""

    auths: Auths
    task: "asyncio.Task[None]"
    waiting: int = 0


class Images:
    """Gets images; *parallel* is how many are pulled at once."""

    def __init__(
        self,
        engine: Engine,
        keychain: Keychain,
        recorder: Recorder,
        *,
        parallel: int = 4,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._keychain = keychain
        self._recorder = recorder
        self._clock = clock
        self._room = asyncio.Semaphore(parallel)
        self._pulls: dict[str, _Pull] = {}

    @property
    def pulling(self) -> tuple[str, ...]:
        """The images that are being pulled."""
        return tuple(sorted(self._pulls))

    async def ensure(
        self, pod: Pod, container: Container, secrets: Sequence[SecretData] = ()
    ) -> Image:
        """The image of *container*, pulled if its policy asks for that.

        Raises PodError with the reason InvalidImageName, ErrImageNeverPull or
        ErrImagePull, and EngineError when Docker cannot tell what is here.
        """
        wanted = self._parsed(pod, container)
        here = await self._engine.image(container.image)
        policy = container.pull_policy
        if here is not None and (policy != "Always" or wanted.image_id):
            self._record(pod, container, "Pulled", f"image {container.image} is here already")
            return here
        if policy == "Never":
            text = f"image {container.image} is not here, and imagePullPolicy is Never"
            self._record(pod, container, "ErrImageNeverPull", text, warning=True)
            raise PodError("ErrImageNeverPull", text)
        if wanted.image_id:
            raise self._failed(pod, container, "an image cannot be pulled by its id")
        return await self._pulled(pod, container, wanted, secrets, here)

    def _parsed(self, pod: Pod, container: Container) -> Reference:
        try:
            return parse(container.image)
        except ValueError as error:
            self._record(pod, container, "InspectFailed", str(error), warning=True)
            # Not final: of a bound pod, images are what the API server lets people change.
            raise PodError("InvalidImageName", str(error)) from error

    async def _pulled(
        self,
        pod: Pod,
        container: Container,
        wanted: Reference,
        secrets: Sequence[SecretData],
        here: Image | None,
    ) -> Image:
        image = container.image
        # Without credentials last: the image may be public, and those for something else.
        auths: Auths = (*self._keychain.candidates(wanted, secrets), None)
        self._record(pod, container, "Pulling", f"pulling image {image}")
        began = self._clock()
        try:
            await self._share(image, auths)
            found = await self._engine.image(image)
        except EngineError as error:
            # What a digest names is the same everywhere; only who may have it is not.
            if here is not None and wanted.pinned and not _denied(error):
                text = f"image {image} is here; its registry cannot be asked: {error}"
                self._record(pod, container, "Pulled", text)
                return here
            raise self._failed(pod, container, str(error)) from error
        if found is None:
            raise self._failed(pod, container, "it was removed as soon as it was pulled")
        seconds = self._clock() - began
        self._record(pod, container, "Pulled", f"image {image} pulled in {seconds:.1f} s")
        return found

    def _failed(self, pod: Pod, container: Container, why: str) -> PodError:
        text = f"image {container.image} cannot be pulled: {why}"
        self._record(pod, container, "Failed", text, warning=True)
        return PodError("ErrImagePull", text)

    def _record(
        self, pod: Pod, container: Container, reason: str, text: str, *, warning: bool = False
    ) -> None:
        kind = "Warning" if warning else "Normal"
        self._recorder.pod(pod, kind, reason, text, container.name)  # type: ignore[arg-type]

    # --- pulls ---

    async def _share(self, image: str, auths: Auths) -> None:
        """Wait for a pull with the same credentials, or make one; raises EngineError."""
        while (pull := self._pulls.get(image)) is not None and pull.auths != auths:
            await asyncio.wait([pull.task])
        if pull is None:
            pull = _Pull(auths, asyncio.create_task(self._pull(image, auths)))
            self._pulls[image] = pull
            pull.task.add_done_callback(lambda task: self._ended(image, task))
        pull.waiting += 1
        try:
            await asyncio.shield(pull.task)
        finally:
            pull.waiting -= 1
            if not pull.waiting:
                pull.task.cancel()

    def _ended(self, image: str, task: "asyncio.Task[None]") -> None:
        del self._pulls[image]
        if not task.cancelled():
            task.exception()

    async def _pull(self, image: str, auths: Auths) -> None:
        async with self._room:
            errors: list[str] = []
            for auth in auths:
                try:
                    await self._engine.pull(image, auth, self._progress(image))
                    return
                except EngineUnavailable:
                    raise
                except EngineError as error:
                    if str(error) not in errors:
                        errors.append(str(error))
                    if not _denied(error):
                        break
            raise EngineError("; ".join(errors))

    def _progress(self, image: str) -> Callable[[str], None]:
        began = told = self._clock()

        def report(text: str) -> None:
            nonlocal told
            now = self._clock()
            if now - told >= REPORT:
                told = now
                log.info("pulling %s for %.0f s: %s", image, now - began, text)

        return report


def _denied(error: EngineError) -> bool:
    """Whether the registry was asked and said no, so that other credentials may help."""
    text = str(error).lower()
    return error.status in {401, 403} or any(word in text for word in _DENIED)
