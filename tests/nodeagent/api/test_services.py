"""Services for containers' variables: what counts, what is bad, and what they cost."""

import asyncio
import tracemalloc
from typing import Any

import msgspec
import pytest

from hostkit.kube.config import KubeConfig
from hostkit.kube.listwatch import Listed
from hostkit.kube.transport import KubeClient
from hostkit.problems import Problems
from nodeagent.api.port import ServiceLink, ServicePort
from nodeagent.api.services import ServiceList, decode
from tests.fakes.kube import Json
from tests.fakes.kubeapi import KubeApi
from tests.support.poll import eventually


def a_service(name: str, namespace: str = "default", **spec: Any) -> Json:
    port = {"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": "u", "labels": {"a": "b"}},
        "spec": {"clusterIP": "10.96.0.10", "ports": [port], "type": "ClusterIP"} | spec,
    }


def read(document: Any) -> Any:
    return decode(msgspec.Raw(msgspec.json.encode(document)))


def test_a_service_is_its_address_and_ports() -> None:
    assert read(a_service("web")) == (
        "default/web",
        ServiceLink("default", "web", "10.96.0.10", (ServicePort(80, "http", "TCP"),)),
    )
    bare = a_service("web", ports=[{"port": 53, "name": None}])
    assert read(bare)[1].ports == (ServicePort(53, "", "TCP"),)


@pytest.mark.parametrize(
    "spec",
    [{"clusterIP": "None"}, {"clusterIP": ""}, {"clusterIP": None}, {"type": "ExternalName"}],
)
def test_a_service_without_an_address_of_its_own_is_left_out(spec: Json) -> None:
    assert read(a_service("web", **spec)) is None


def test_a_bad_service_is_refused_with_the_field() -> None:
    with pytest.raises(ValueError, match="ports"):
        read(a_service("web", ports=[{"port": "http"}]))


async def test_services_follow_the_api_and_bad_ones_are_named() -> None:
    async with KubeApi() as server:
        server.create("services", a_service("web"))
        server.create("services", a_service("db", "apps"))
        server.create("services", a_service("odd", ports="none"))
        client = KubeClient(KubeConfig((server.url,)), user_agent="test", deadline=5)
        problems = Problems()
        changes: list[int] = []
        services = ServiceList(client, problems, on_change=lambda: changes.append(1))
        with pytest.raises(TimeoutError):
            await services.links(0.0)
        running = asyncio.create_task(services.run())
        found = await services.links(20.0)
        assert [(one.namespace, one.name) for one in found] == [("apps", "db"), ("default", "web")]
        assert "service default/odd" in problems
        assert await services.links(0.0) is found
        server.change("services", "default/odd", spec=a_service("odd")["spec"])
        server.remove("services", "apps/db")
        await eventually(lambda: len(changes) == 4)
        assert [one.name for one in await services.links(0.0)] == ["odd", "web"]
        assert not problems.all()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await client.close()


def test_two_thousand_services_take_less_than_two_megabytes() -> None:
    documents = []
    for n in range(2000):
        address = f"10.96.{n // 250}.{n % 250}"
        document = a_service(f"service-{n}", f"ns-{n % 20}", clusterIP=address)
        documents.append(msgspec.Raw(msgspec.json.encode(document)))
    services = ServiceList(
        None,  # type: ignore[arg-type] # nothing is asked of an API server
        Problems(),
    )
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    services._mirror.take(Listed(documents, "1"))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(services._mirror.items) == 2000
    assert grown < 2_000_000
