"""``barenode token``: what it prints, and what it makes of an API server's answers."""

import asyncio
import io
import json
from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from hostkit.kube.config import KubeConfig
from lab.errors import LabError, PrerequisiteError, UsageError
from lab.join import bootstrap, tokencommand, tokens
from lab.join.tokens import Token
from lab.master.kubeconfig import kubeconfig
from lab.master.pki import Pki
from lab.output import Output
from tests.lab.join.fakeapi import FakeApi

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SECRETS = "/api/v1/namespaces/kube-system/secrets"


class Operator:
    """Runs the command on a master whose API server is *api*."""

    def __init__(self, folder: Path) -> None:
        self.api = FakeApi()
        pki = Pki(folder / "pki")
        pki.authorities()
        self.pin = pki.fingerprint()
        self.conf = folder / "admin.conf"
        self.conf.write_text(kubeconfig("https://192.0.2.1:6443", "admin", ca=pki.authority()))

    def run(self, *words: str) -> str:
        """What the command writes to stdout; it has to succeed."""
        text = io.StringIO()
        output = Output(Console(file=text, width=60), Console(file=io.StringIO()))
        args = flags(*words, f"--kubeconfig={self.conf}")
        assert asyncio.run(tokencommand.run(args, output, connect=lambda _: self.api)) == 0
        return text.getvalue()


def flags(*words: str) -> Namespace:
    """The command's flags as it reads them."""
    parser = ArgumentParser()
    tokencommand.add_arguments(parser.add_subparsers(), "")
    return parser.parse_args(["token", *words])


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """On a new master."""
    return Operator(tmp_path)


def test_create_prints_a_token_that_the_cluster_has(operator: Operator) -> None:
    """Alone on its line."""
    token = Token.parse(operator.run("create").strip())
    assert f"{SECRETS}/bootstrap-token-{token.id}" in operator.api.objects


def test_the_join_command_is_one_whole_line(operator: Operator) -> None:
    """On however narrow a terminal."""
    line = operator.run("create", "--print-join-command")
    assert line.count("\n") == 1
    assert line.startswith("barenode join 192.0.2.1:6443 --token ")
    assert line.endswith(f" --ca-hash {operator.pin}\n")


def test_json_has_the_token_its_end_and_the_line(operator: Operator) -> None:
    """For programs."""
    made = json.loads(operator.run("create", "--ttl=0", "--json"))
    assert made["expires"] == ""
    assert made["token"] in made["join"]
    made = json.loads(operator.run("create", "--json"))
    assert made["expires"].endswith("Z")


def test_list_shows_no_secret(operator: Operator) -> None:
    """In neither form."""
    token = Token.parse(operator.run("create", "--description=for a rack").strip())
    for words in (("list",), ("list", "--json")):
        text = operator.run(*words)
        assert token.id in text
        assert "for a rack" in text
        assert token.secret not in text


def test_list_says_when_there_is_none(operator: Operator) -> None:
    """And how to make one."""
    operator.api.objects[f"{SECRETS}/other"] = {"metadata": {"name": "other"}, "type": "Opaque"}
    assert "barenode token create" in operator.run("list")


def test_what_ends_first_is_listed_first(operator: Operator) -> None:
    """What never does comes last."""

    async def put() -> None:
        for one, hours in (("aaaaaa", None), ("bbbbbb", 9), ("cccccc", 1)):
            ttl = None if hours is None else timedelta(hours=hours)
            await bootstrap.put_token(operator.api, Token(one, "0" * 16), ttl, "", NOW)

    asyncio.run(put())
    found = asyncio.run(tokencommand.listed(operator.api, lambda: NOW))
    assert [one.id for one in found] == ["cccccc", "bbbbbb", "aaaaaa"]
    rows = tokencommand.sheet(found, NOW).rows
    assert [row[1] for row in rows] == ["1h 0m", "9h 0m", "never"]


def test_delete_takes_an_id_or_the_whole_token(operator: Operator) -> None:
    """Then it is gone; a second time it is not there."""
    token = operator.run("create").strip()
    operator.run("delete", token)
    assert not operator.api.objects
    with pytest.raises(LabError, match=f"there is no token {token[:6]}"):
        operator.run("delete", token[:6])
    with pytest.raises(UsageError, match="no id of a token"):
        operator.run("delete", "x/../y")


def test_a_host_that_is_no_master_is_told_where_to_go() -> None:
    """Before anything is asked."""
    with pytest.raises(PrerequisiteError, match="/none is missing: run this on the cluster's mast"):
        tokencommand.administrator("/none")


def test_a_kubeconfig_without_a_ca_makes_no_join_line(tmp_path: Path) -> None:
    """Others could not know the cluster."""
    with pytest.raises(LabError, match="names no CA"):
        tokencommand.pin(KubeConfig(("https://192.0.2.1:6443",)))
    pki = Pki(tmp_path)
    pki.authorities()
    config = KubeConfig(("https://192.0.2.1:6443",), ca_file=str(tmp_path / "ca.crt"))
    assert tokencommand.pin(config) == pki.fingerprint()


def test_only_tokens_are_asked_for(operator: Operator) -> None:
    """A cluster may have thousands of Secrets."""
    operator.run("list")
    ((method, path),) = operator.api.calls
    assert method == "GET"
    assert path == f"{tokens.COLLECTION}?fieldSelector=type%3Dbootstrap.kubernetes.io%2Ftoken"
