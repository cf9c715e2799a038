"""Which APIs a server has, from Kubernetes 1.0 on."""

import pytest

from hostkit.kube.discovery import discover
from hostkit.kube.errors import KubeUnavailable
from hostkit.kube.transport import KubeClient
from tests.fakes.kube import FakeKube, Refused


async def test_all_versions_of_all_groups_are_told(
    client: KubeClient, servers: list[FakeKube]
) -> None:
    servers[0].groups["/apis"] = {
        "groups": [
            {
                "name": "discovery.k8s.io",
                "versions": [
                    {"groupVersion": "discovery.k8s.io/v1", "version": "v1"},
                    {"groupVersion": "discovery.k8s.io/v1beta1", "version": "v1beta1"},
                ],
            },
            {"name": "apps", "versions": [{"groupVersion": "apps/v1", "version": "v1"}]},
        ]
    }
    assert await discover(client) == {
        "v1",
        "discovery.k8s.io/v1",
        "discovery.k8s.io/v1beta1",
        "apps/v1",
    }


async def test_a_server_without_groups_has_the_core_alone(client: KubeClient) -> None:
    assert await discover(client) == {"v1"}


async def test_an_answer_of_something_else_is_told(
    client: KubeClient, servers: list[FakeKube]
) -> None:
    servers[0].fail("list", Refused(200, text="<html>"))
    with pytest.raises(KubeUnavailable, match="no list of API versions"):
        await discover(client)
    servers[0].groups["/apis"] = {"groups": "many"}
    with pytest.raises(KubeUnavailable, match="no list of API groups"):
        await discover(client)
