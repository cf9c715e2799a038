"""The service account ``default`` of every namespace."""

from lab.api.controllers.world import Action, Create, World
from lab.api.kinds import NAMESPACE, SERVICE_ACCOUNT

KINDS = (SERVICE_ACCOUNT, NAMESPACE)


def plan(world: World) -> list[Action]:
    """Make those that are missing."""
    there = {
        one.metadata.namespace
        for one in world.of(SERVICE_ACCOUNT)
        if one.metadata.name == "default"
    }
    return [
        Create(SERVICE_ACCOUNT, {"metadata": {"name": "default", "namespace": one.metadata.name}})
        for one in world.of(NAMESPACE)
        if not one.leaving and one.metadata.name not in there
    ]
