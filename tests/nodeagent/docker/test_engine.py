"""The engine against a daemon that answers as Docker does, restarts, hangs and lies."""

import asyncio
import gc
import json
import threading
from pathlib import Path

import pytest

from hostkit.metrics import Metrics
from nodeagent.docker.engine import DockerEngine
from nodeagent.errors import EngineConflict, EngineError, EngineNotFound, EngineUnavailable
from tests.fakes.dockerd import Answer, Dockerd, Request
from tests.nodeagent.docker.test_labels import document
from tests.support.poll import eventually

C = "ab" * 32

sdk_leaves_a_socket = pytest.mark.filterwarnings(
    # The SDK drops a socket that it could not connect, for the garbage collector to close: the
    # tests call that, so that the warning does not come in another one.
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)


def figure(metrics: Metrics, name: str, kind: str) -> float | None:
    return metrics.registry.get_sample_value(f"kubelet_{name}", {"operation_type": kind})


# --- versions and faults ---


async def test_the_version_is_agreed_upon_once(dockerd: Dockerd, engine: DockerEngine) -> None:
    dockerd.answers["GET /_ping"] = Answer(body=b"OK")
    await engine.ping(5)
    await engine.ping(5)
    assert [r.path for r in dockerd.requests] == ["/version", "/_ping", "/_ping"]
    assert {r.version for r in dockerd.requests if r.path == "/_ping"} == {"1.41"}


async def test_a_daemon_that_became_newer_is_spoken_to_anew(
    dockerd: Dockerd, engine: DockerEngine
) -> None:
    dockerd.answers["GET /info"] = Answer(body={"ServerVersion": "29"})
    assert (await engine.info()).api_version == "1.41"
    dockerd.api, dockerd.least = "1.52", "1.44"
    with pytest.raises(EngineError, match="too old"):
        await engine.info()
    assert (await engine.info()).api_version == "1.44"


@sdk_leaves_a_socket
async def test_a_restarted_daemon_is_met_by_the_next_call(
    dockerd: Dockerd, engine: DockerEngine
) -> None:
    dockerd.answers["GET /_ping"] = Answer(body=b"OK")
    await engine.ping(5)
    dockerd.stop()
    with pytest.raises(EngineUnavailable, match="cannot be reached: No such file"):
        await engine.ping(5)
    dockerd.start()
    await engine.ping(5)
    gc.collect()


@sdk_leaves_a_socket
async def test_a_daemon_may_be_absent_at_first(tmp_path: Path) -> None:
    dockerd = Dockerd(tmp_path / "docker.sock")
    engine = DockerEngine(dockerd.url, metrics=Metrics("kubelet"))
    with pytest.raises(EngineUnavailable):
        await engine.containers()
    dockerd.start()
    dockerd.answers["GET /containers/json"] = Answer(body=[])
    assert await engine.containers() == []
    await engine.close()
    dockerd.stop()
    gc.collect()


@pytest.mark.parametrize(
    ("status", "kind"), [(404, EngineNotFound), (409, EngineConflict), (500, EngineError)]
)
async def test_a_refusal_has_dockers_words_on_one_line(
    dockerd: Dockerd, engine: DockerEngine, status: int, kind: type[EngineError]
) -> None:
    dockerd.answers[f"POST /containers/{C}/start"] = Answer(status, {"message": "it\nis so"})
    with pytest.raises(kind) as raised:
        await engine.start(C)
    assert (str(raised.value), raised.value.status) == ("it is so", status)
    assert type(raised.value) is kind


async def test_an_answer_that_is_no_json_is_an_engine_error(
    dockerd: Dockerd, engine: DockerEngine
) -> None:
    dockerd.answers["GET /containers/json"] = Answer(body=b"<html>")
    with pytest.raises(EngineError, match="cannot be read"):
        await engine.containers()


async def test_an_answer_of_another_form_is_an_engine_error(
    dockerd: Dockerd, engine: DockerEngine
) -> None:
    dockerd.answers["GET /containers/json"] = Answer(body=[{"State": 1}])
    with pytest.raises(EngineError, match="unknown form"):
        await engine.containers()


async def test_a_hanging_daemon_is_told_apart_by_ping(
    dockerd: Dockerd, engine: DockerEngine
) -> None:
    dockerd.gate.clear()
    with pytest.raises(EngineUnavailable, match=r"within 0\.05 s"):
        await engine.ping(0.05)


async def test_a_change_is_given_up_after_the_time_that_was_set(dockerd: Dockerd) -> None:
    engine = DockerEngine(dockerd.url, metrics=Metrics("kubelet"), change=0.2)
    dockerd.answers["GET /_ping"] = Answer(body=b"OK")
    await engine.ping(5)
    dockerd.gate.clear()
    with pytest.raises(EngineUnavailable, match="in time"):
        await engine.start(C)
    dockerd.gate.set()
    await engine.close()


async def test_a_hanging_inspect_holds_up_no_list(dockerd: Dockerd, engine: DockerEngine) -> None:
    gate = threading.Event()

    def hang(_: Request) -> Answer:
        gate.wait()
        return Answer(404, {"message": "late"})

    dockerd.answers[f"GET /containers/{C}/json"] = hang
    dockerd.answers["GET /containers/json"] = Answer(body=[])
    tasks = [asyncio.create_task(engine.inspect(C)) for _ in range(10)]
    assert await engine.containers() == []
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(one) for one in results} == {EngineNotFound}


async def test_a_cancelled_change_waits_for_its_answer(
    dockerd: Dockerd, engine: DockerEngine
) -> None:
    dockerd.answers["GET /_ping"] = Answer(body=b"OK")
    await engine.ping(5)
    dockerd.answers[f"DELETE /containers/{C}"] = Answer(204)
    dockerd.gate.clear()
    task = asyncio.create_task(engine.remove(C))
    await eventually(lambda: f"DELETE /containers/{C}" in dockerd.paths)
    task.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()
    dockerd.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_broken_configuration_of_the_user_is_no_hindrance(
    dockerd: Dockerd, engine: DockerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"auths": {"x": {"auth": "%%%"}}, "proxies": 3}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    dockerd.answers["GET /_ping"] = Answer(body=b"OK")
    await engine.ping(5)


async def test_calls_are_counted_by_kind(dockerd: Dockerd) -> None:
    metrics = Metrics("kubelet")
    engine = DockerEngine(dockerd.url, metrics=metrics)
    dockerd.answers[f"POST /containers/{C}/start"] = Answer(500, {"message": "no"})
    dockerd.answers["GET /containers/json"] = Answer(body=[])
    await engine.containers()
    with pytest.raises(EngineError):
        await engine.start(C)
    assert figure(metrics, "runtime_operations_total", "list_containers") == 1
    assert figure(metrics, "runtime_operations_errors_total", "list_containers") is None
    assert figure(metrics, "runtime_operations_errors_total", "start_container") == 1
    name = "runtime_operations_duration_seconds_count"
    assert figure(metrics, name, "start_container") == 1
    await engine.close()


# --- containers ---


async def test_only_containers_with_our_label_are_asked_for(
    dockerd: Dockerd, engine: DockerEngine
) -> None:
    line = {"Id": C, "State": "running", "Labels": {"a": "b"}, "Names": ["/k8s_x"]}
    dockerd.answers["GET /containers/json"] = Answer(body=[line])
    [entry] = await engine.containers("u-1")
    assert (entry.id, entry.state, entry.names) == (C, "running", ("k8s_x",))
    query = dockerd.requests[-1].query
    assert json.loads(query["filters"])["label"] == [
        "barenode.nodeagent=1", "io.kubernetes.pod.uid=u-1",
    ]  # fmt: skip
    assert query["all"] == "1"


async def test_a_foreign_container_is_a_value_error(dockerd: Dockerd, engine: DockerEngine) -> None:
    dockerd.answers[f"GET /containers/{C}/json"] = Answer(body=document())
    assert (await engine.inspect(C)).name == "c"
    dockerd.answers[f"GET /containers/{C}/json"] = Answer(
        body=document(labels={"barenode.nodeagent": "0"})
    )
    with pytest.raises(ValueError, match="not nodeagent's"):
        await engine.inspect(C)


async def test_a_container_is_created_from_the_body_as_it_is(
    dockerd: Dockerd, engine: DockerEngine
) -> None:
    dockerd.answers["POST /containers/create"] = Answer(201, {"Id": C})
    body = {"Image": "x", "HostConfig": {"Memory": 5}}
    assert await engine.create("k8s_x", body) == C
    request = dockerd.requests[-1]
    assert (request.query, json.loads(request.body)) == ({"name": "k8s_x"}, body)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(204),
        Answer(404, {"message": "No such container"}),
        Answer(409, {"message": "Container ab is not running"}),
        Answer(500, {"message": "Cannot kill container: ab: Container ab is not running"}),
        Answer(500, {"message": "os: process already finished: unknown"}),
    ],
)
async def test_killing_what_does_not_run_is_fine(
    dockerd: Dockerd, engine: DockerEngine, answer: Answer
) -> None:
    dockerd.answers[f"POST /containers/{C}/kill"] = answer
    await engine.kill(C, "SIGTERM")
    assert dockerd.requests[-1].query == {"signal": "SIGTERM"}


async def test_a_kill_that_docker_refuses_is_told(dockerd: Dockerd, engine: DockerEngine) -> None:
    dockerd.answers[f"POST /containers/{C}/kill"] = Answer(400, {"message": "Invalid signal: FOO"})
    with pytest.raises(EngineError, match="Invalid signal"):
        await engine.kill(C, "FOO")


async def test_starting_what_runs_and_removing_what_is_gone_is_fine(
    dockerd: Dockerd, engine: DockerEngine
) -> None:
    dockerd.answers[f"POST /containers/{C}/start"] = Answer(304)
    dockerd.answers[f"DELETE /containers/{C}"] = Answer(404, {"message": "No such container"})
    await engine.start(C)
    await engine.remove(C)
    assert dockerd.requests[-1].query == {"v": "True", "link": "False", "force": "True"}


async def test_a_removal_by_another_is_waited_for(dockerd: Dockerd, engine: DockerEngine) -> None:
    busy = Answer(409, {"message": f"removal of container {C} is already in progress"})
    dockerd.answers[f"DELETE /containers/{C}"] = busy
    await engine.remove(C)
    assert dockerd.paths[-1] == f"GET /containers/{C}/json"
