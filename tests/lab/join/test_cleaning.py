"""What ``barenode reset`` lets the daemons' own clean-up do."""

import pytest

from hostkit.command import Completed
from lab.join import cleaning
from tests.lab.fakes import FakeRunner


class Docker(FakeRunner):
    """A Docker with images; one that is *used* cannot be removed."""

    def __init__(self, *images: str) -> None:
        super().__init__()
        self.images = list(images)
        self.used = ""

    def answer(self, argv: list[str], stdin: str | None) -> Completed:
        """``docker image ls`` and ``rm``."""
        if argv[2] == "ls":
            assert argv[4] == "reference=barenode/*"
            return self.ok(
                argv, "\n".join(one for one in self.images if one.startswith("barenode/"))
            )
        if argv[3] == self.used:
            return self.fails(argv, "conflict: a container uses it")
        self.images.remove(argv[3])
        return self.ok(argv)


async def test_images_of_ours_go_and_those_of_others_stay() -> None:
    """Those that init built or was given under our name."""
    docker = Docker("barenode/etcd:lab", "nginx:1", "barenode/hyperkube:v1.20.2")
    (done,) = await cleaning.clean_images(docker)
    assert docker.images == ["nginx:1"]
    assert done.result == "barenode/etcd:lab, barenode/hyperkube:v1.20.2 removed"
    (done,) = await cleaning.clean_images(docker)
    assert (done.result, done.ok) == ("none of ours", True)


async def test_an_image_in_use_stays_and_is_no_failure() -> None:
    """A container of somebody else runs it."""
    docker = Docker("barenode/etcd:lab")
    docker.used = "barenode/etcd:lab"
    (done,) = await cleaning.clean_images(docker)
    assert done.ok
    assert "a container uses it" in done.result


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", {}),
        ("NETD_V=2\n# NETD_V=9\n; x\n", {"NETD_V": "2"}),
        ('NODEAGENT_ROOT_DIR="/srv/pods 1"\n', {"NODEAGENT_ROOT_DIR": "/srv/pods 1"}),
        ("nonsense\n'\n1A=2\n", {}),
    ],
)
def test_the_environment_of_the_services_is_read_as_systemd_does(
    text: str, wanted: dict[str, str]
) -> None:
    """Comments and quotes, and no commands."""
    assert cleaning.environment(text) == wanted
