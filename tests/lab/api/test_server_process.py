"""``python -m lab.api`` as a process: it starts, stops, starts again, and explains itself."""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from lab.api.__main__ import advertised, parse
from tests.fakes.etcd import FakeEtcd
from tests.lab.api.serving import SERVICES, service

ANSWERS = re.compile(rb"answers at (http://\S+)")


@asynccontextmanager
async def running(etcd: str, *flags: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the process, which has to end with status 0 when it is asked to."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lab.api", f"--etcd={etcd}", "--listen=127.0.0.1:0", *flags,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with asyncio.timeout(120):
            line = await process.stderr.readline()
        match = ANSWERS.search(line)
        assert match, line
        async with aiohttp.ClientSession(match[1].decode()) as session:
            yield session
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(120):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_it_starts_with_its_defaults_and_keeps_everything_over_a_restart() -> None:
    """On loopback nothing is advertised: an endpoint there would be another one on each host."""
    async with FakeEtcd() as etcd:
        async with running(etcd.url, "--no-controllers") as client:
            async with client.post(SERVICES, json=service("web")) as made:
                assert made.status == 201
                before = await made.json()
            async with client.get("/api/v1/endpoints") as found:
                assert (await found.json())["items"] == []
        async with running(etcd.url) as client:
            async with client.get(f"{SERVICES}/web") as found:
                assert (await found.json()) == before
            async with client.get(f"{SERVICES}/kubernetes") as found:
                assert (await found.json())["spec"]["clusterIP"] == "10.0.0.1"


async def test_the_advertised_address_becomes_the_endpoint_and_may_change() -> None:
    """With the port on which the server answers."""
    async with FakeEtcd() as etcd:
        for address in ("172.31.0.1", "172.31.0.2"):
            flags = ("--no-controllers", f"--advertise-address={address}")
            async with running(etcd.url, *flags) as client:
                path = "/api/v1/namespaces/default/endpoints/kubernetes"
                async with client.get(path) as found:
                    (subset,) = (await found.json())["subsets"]
                assert subset["addresses"] == [{"ip": address}]
                assert subset["ports"][0]["port"] == client._base_url.port  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("listen", "wanted"),
    [("127.0.0.1:1", ""), ("0.0.0.0:1", ""), ("localhost:1", ""), ("10.9.0.1:1", "10.9.0.1")],
)
def test_only_an_address_that_others_reach_is_advertised(listen: str, wanted: str) -> None:
    """Of those to listen on."""
    assert advertised(parse(["--etcd=http://x:1", f"--listen={listen}"])) == wanted


@pytest.mark.parametrize(
    ("flag", "why"),
    [
        ("--advertise-address=127.0.0.1", "loopback"),
        ("--advertise-address=x", "no IPv4 address"),
        ("--listen=8080", "has to look like"),
        ("--service-cluster-ip-range=10.0.0.1/24", "has to look like"),
        ("--service-cluster-ip-range=10.0.0.0/31", "too small"),
    ],
)
def test_a_flag_that_cannot_be_used_is_explained(
    flag: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 and a sentence."""
    with pytest.raises(SystemExit) as ended:
        parse(["--etcd=http://x:1", flag])
    assert ended.value.code == 2 and why in capsys.readouterr().err
