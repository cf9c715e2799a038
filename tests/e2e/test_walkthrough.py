"""docs/walkthrough.md holds: each command is run, and says what is written there."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.master import agents
from tests.support.kubelab import KubeLab
from tests.support.walkthrough import DOCUMENT, LabShell, follow, parse

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PARTS = {part.lab: part for part in parse(DOCUMENT.read_text(encoding="utf-8"))}


@pytest.fixture
def plain() -> Iterator[KubeLab]:
    """A lab of a master and a worker in which everything is plain HTTP."""
    lab = KubeLab(f"p{os.getpid()}", masters=1, workers=1, extra=("--insecure",))
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


def walk(kube: KubeLab, part: str, directory: Path) -> None:
    """Follow a part of the document in *kube* to its end."""
    done = list(follow(PARTS[part], LabShell(kube, directory)))
    assert [one.step for one in done] == list(PARTS[part].steps)


def test_the_story_of_two_nodes_goes_as_it_is_written(kube: KubeLab, tmp_path: Path) -> None:
    """From bare hosts to nginx behind a service, on a real control plane with TLS."""
    try:
        walk(kube, "kubernetes", tmp_path)
    finally:
        kube.delete_all()


def test_plain_http_serves_everyone_as_it_is_written(plain: KubeLab, tmp_path: Path) -> None:
    """API on 8080, etcd on 4001; what is not written: nobody needs credentials, agents neither."""
    walk(plain, "plain", tmp_path)
    (master,) = plain.masters
    for host in plain.hosts:
        for file in (agents.NODEAGENT_FILE, agents.NETD_FILE):
            settings = plain.exec(host, "cat", file)
            assert f'"http://{plain.address(master)}:8080"' in settings
            assert not re.search(r"kubeconfig|etcd-certfile|token|https:", settings)
    url = f"http://{plain.address(master)}:8080/api/v1/nodes"
    nodes = plain.wait(lambda: plain.curl("fabric", url), f"{url} answers")
    assert nodes.count('"kubeletVersion"') == len(plain.hosts)
