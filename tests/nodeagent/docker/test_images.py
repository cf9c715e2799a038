"""Images are pulled when their policy says so, once, with the credentials that fit."""

import asyncio
import json
import logging
from itertools import count

import pytest

from nodeagent.api.port import SecretData
from nodeagent.docker.api import Image
from nodeagent.docker.images import Images
from nodeagent.docker.keychain import CONFIG_JSON, Keychain
from nodeagent.errors import EngineError, EngineUnavailable, PodError
from nodeagent.pods.model import Pod
from tests.fakes.docker import FakeEngine
from tests.nodeagent.docker.support import Notes, pod

PULLED = "reg.io/app:1"


def secret(*passwords: str) -> SecretData:
    """A secret with a password for each part of the image's path."""
    keys = ("reg.io/app", "reg.io")
    auths = {k: {"username": "u", "password": p} for k, p in zip(keys, passwords, strict=False)}
    return SecretData(CONFIG_JSON, {".dockerconfigjson": json.dumps({"auths": auths}).encode()})


class Setup:
    def __init__(self, parallel: int = 4) -> None:
        self.engine = FakeEngine()
        self.world = self.engine.world
        self.notes = Notes()
        self.images = Images(self.engine, Keychain([]), self.notes, parallel=parallel)

    async def get(self, one: Pod, *secrets: SecretData) -> Image:
        return await self.images.ensure(one, one.spec.containers[0], secrets)

    async def refusal(self, one: Pod, *secrets: SecretData) -> PodError:
        with pytest.raises(PodError) as raised:
            await self.get(one, *secrets)
        return raised.value

    @property
    def pulls(self) -> int:
        return self.engine.calls.count("pull")


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_what_is_here_is_not_pulled() -> None:
    setup = Setup()
    here = setup.world.add_image("nginx:1.25")
    assert await setup.get(pod()) == here
    assert setup.pulls == 0
    assert setup.notes.reasons == ["Pulled"]


async def test_what_is_missing_is_pulled() -> None:
    setup = Setup()
    published = setup.world.publish("nginx:1.25")
    assert await setup.get(pod()) == published
    assert setup.notes.reasons == ["Pulling", "Pulled"]


async def test_latest_is_always_pulled() -> None:
    setup = Setup()
    setup.world.add_image("nginx")
    new = setup.world.publish("nginx")
    del setup.world.images[next(iter(setup.world.images))]
    assert await setup.get(pod(image="nginx")) == new
    assert setup.pulls == 1


async def test_always_fails_when_the_registry_is_away_though_the_image_is_here() -> None:
    setup = Setup()
    setup.world.add_image(PULLED)
    setup.engine.fail_next("pull", EngineError("dial tcp: no such host", 500))
    error = await setup.refusal(pod(image=PULLED, imagePullPolicy="Always"))
    assert error.reason == "ErrImagePull"
    assert "no such host" in error.message


async def test_a_digest_that_is_here_does_without_its_registry_but_not_without_leave() -> None:
    setup = Setup()
    image = "reg.io/app@sha256:" + "a" * 64
    here = setup.world.add_image(image)
    one = pod(image=image, imagePullPolicy="Always")
    setup.engine.fail_next("pull", EngineError("dial tcp: no such host", 500))
    assert await setup.get(one) == here
    setup.engine.fail_next("pull", EngineError("denied: not yours", 404))
    assert (await setup.refusal(one)).reason == "ErrImagePull"


async def test_an_image_id_is_taken_as_it_is_and_never_pulled() -> None:
    setup = Setup()
    here = setup.world.add_image("x:1")
    assert await setup.get(pod(image=here.id, imagePullPolicy="Always")) == here
    error = await setup.refusal(pod(image="sha256:" + "b" * 64))
    assert (error.reason, setup.pulls) == ("ErrImagePull", 0)


async def test_never_means_never() -> None:
    setup = Setup()
    setup.world.publish("nginx:1.25")
    error = await setup.refusal(pod(imagePullPolicy="Never"))
    assert (error.reason, error.final, setup.pulls) == ("ErrImageNeverPull", False, 0)
    assert setup.notes.reasons == ["ErrImageNeverPull"]


async def test_a_bad_name_is_told_and_may_still_be_mended() -> None:
    setup = Setup()
    error = await setup.refusal(pod(image="Not Good"))
    assert (error.reason, error.final) == ("InvalidImageName", False)
    assert "Not Good" in error.message
    assert setup.engine.calls == []


async def test_credentials_are_tried_in_turn() -> None:
    setup = Setup()
    setup.world.publish(PULLED, wants="right")
    await setup.get(pod(image=PULLED), secret("wrong", "right"))
    assert setup.pulls == 2
    error = await setup.refusal(pod(image=PULLED, imagePullPolicy="Always"), secret("wrong"))
    assert "denied" in error.message
    assert error.message.count("pull access denied") == 1
    assert setup.notes.events[-1][:2] == ("Warning", "Failed")


async def test_a_public_image_is_pulled_in_spite_of_bad_credentials() -> None:
    setup = Setup()
    published = setup.world.publish(PULLED)
    setup.engine.fail_next("pull", EngineError("unauthorized: who are you", 500))
    assert await setup.get(pod(image=PULLED), secret("wrong")) == published


async def test_a_fault_of_the_registry_is_not_answered_with_more_credentials() -> None:
    setup = Setup()
    setup.engine.fail_next("pull", EngineError("no space left on device", 500))
    await setup.refusal(pod(image=PULLED), secret("a", "b"))
    assert setup.pulls == 1


async def test_a_docker_that_does_not_answer_is_a_failed_pull() -> None:
    setup = Setup()
    setup.engine.fail_next("pull", EngineUnavailable("Docker does not answer in time"))
    assert (await setup.refusal(pod(image=PULLED), secret("a"))).reason == "ErrImagePull"
    assert setup.pulls == 1


async def test_one_image_is_pulled_once_for_all_who_wait() -> None:
    setup = Setup()
    published = setup.world.publish("nginx:1.25")
    found = await asyncio.gather(*(setup.get(pod(uid=f"u-{n}")) for n in range(8)))
    assert set(found) == {published}
    assert setup.pulls == 1
    assert setup.notes.reasons.count("Pulled") == 8


async def test_a_failed_pull_fails_for_all_who_wait_and_is_tried_anew_later() -> None:
    setup = Setup()
    setup.world.publish("nginx:1.25")
    setup.engine.fail_next("pull", EngineError("odd", 500))
    found = await asyncio.gather(
        *(setup.get(pod(uid=f"u-{n}")) for n in range(3)), return_exceptions=True
    )
    assert {type(one) for one in found} == {PodError}
    await setup.get(pod())


async def test_who_has_no_right_does_not_share_the_pull_of_one_who_has() -> None:
    setup = Setup()
    setup.world.publish(PULLED, wants="right")
    one = pod(image=PULLED, imagePullPolicy="Always")
    good, bad = await asyncio.gather(
        setup.get(one, secret("right")), setup.get(one), return_exceptions=True
    )
    assert isinstance(good, Image)
    assert isinstance(bad, PodError)


async def test_pulls_are_bounded() -> None:
    setup = Setup(parallel=2)
    for number in range(5):
        setup.world.publish(f"app:{number}")
    setup.engine.hang("pull")
    tasks = [asyncio.create_task(setup.get(pod(image=f"app:{n}"))) for n in range(5)]
    await settle()
    assert setup.pulls == 2
    setup.engine.release("pull")
    await asyncio.gather(*tasks)
    assert setup.pulls == 5


async def test_a_pull_goes_on_while_one_waits_for_it_and_ends_with_the_last() -> None:
    setup = Setup()
    setup.world.publish("nginx:1.25")
    setup.engine.hang("pull")
    first, second = (asyncio.create_task(setup.get(pod(uid=u))) for u in ("u-1", "u-2"))
    await settle()
    first.cancel()
    await settle()
    setup.engine.release("pull")
    assert (await second).tags == ("nginx:1.25",)
    with pytest.raises(asyncio.CancelledError):
        await first
    setup.engine.hang("pull")
    third = asyncio.create_task(setup.get(pod(imagePullPolicy="Always")))
    await settle()
    third.cancel()
    with pytest.raises(asyncio.CancelledError):
        await third
    await settle()
    assert len(asyncio.all_tasks()) == 1
    setup.engine.release("pull")
    await setup.get(pod(imagePullPolicy="Always"))


async def test_a_long_pull_is_told_of_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    engine, ticks = FakeEngine(), count(0, 11)
    engine.world.publish("nginx:1.25")
    images = Images(engine, Keychain([]), Notes(), clock=lambda: float(next(ticks)))
    with caplog.at_level(logging.INFO):
        await images.ensure(pod(), pod().spec.containers[0])
    assert "pulling nginx:1.25 for 11 s: 1 of 1 layers" in caplog.text
