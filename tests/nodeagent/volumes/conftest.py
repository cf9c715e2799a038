"""The world of a test of volumes."""

from pathlib import Path

import pytest

from nodeagent.api.port import SecretData
from tests.nodeagent.volumes.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Volumes below a folder of the test, with a ConfigMap ``m`` and a Secret ``s``."""
    made = World(tmp_path)
    made.objects.config_maps["m"] = {"a": b"one", "b.conf": b"two"}
    made.objects.secrets["s"] = SecretData("Opaque", {"pw": b"\x00\xff"})
    return made
