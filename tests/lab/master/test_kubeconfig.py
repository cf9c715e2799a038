"""Kubeconfigs, as our daemons and kubectl read them."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from hostkit.kube.config import load
from lab.errors import UsageError
from lab.master.kubeconfig import holder, kubeconfig, renewed

SERVER = "https://10.0.0.1:6443"
FULL = kubeconfig(SERVER, "jane", ca=b"CA\n", cert=b"CERT\n", key=b"KEY\n")


def test_our_daemons_read_what_was_written(tmp_path: Path) -> None:
    """Server and every credential."""
    path = tmp_path / "conf"
    path.write_text(FULL)
    found = load((), str(path))
    assert found.servers == (SERVER,)
    assert (found.ca_data, found.cert_data, found.key_data) == ("CA\n", "CERT\n", "KEY\n")


def test_without_credentials_nothing_is_asked_for(tmp_path: Path) -> None:
    """For plain HTTP."""
    path = tmp_path / "conf"
    path.write_text(kubeconfig("http://10.0.0.1:8080", "jane"))
    found = load((), str(path))
    assert found.servers == ("http://10.0.0.1:8080",)
    assert not (found.ca_data or found.cert_data or found.key_data)


def test_without_a_server_the_daemon_s_own_setting_counts(tmp_path: Path) -> None:
    """One node's file serves whatever the number of masters."""
    path = tmp_path / "conf"
    path.write_text(kubeconfig("", "jane", ca=b"CA\n"))
    assert load((SERVER, "https://10.0.0.2:6443"), str(path)).servers[1] == "https://10.0.0.2:6443"


def test_kubectl_reads_it_as_we_do(tmp_path: Path) -> None:
    """The current context leads to the one user and cluster."""
    path = tmp_path / "conf"
    path.write_text(FULL)
    kubectl = shutil.which("kubectl")
    assert kubectl, "kubectl is among the packages of make setup"
    argv = [kubectl, "config", "view", "--minify", "--raw", "-o", "json", f"--kubeconfig={path}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(done.stdout)
    assert found["clusters"][0]["cluster"] == {
        "server": SERVER,
        "certificate-authority-data": "Q0EK",
    }
    assert found["users"][0]["user"]["client-key-data"] == "S0VZCg=="


def test_the_same_values_give_the_same_text() -> None:
    """A file that did not change is not written again."""
    assert kubeconfig(SERVER, "jane", ca=b"CA\n", cert=b"CERT\n", key=b"KEY\n") == FULL


def test_half_a_pair_is_refused() -> None:
    """Naming the half that is missing."""
    with pytest.raises(UsageError, match="key is missing"):
        kubeconfig(SERVER, "jane", cert=b"CERT")
    with pytest.raises(UsageError, match="certificate is missing"):
        kubeconfig(SERVER, "jane", key=b"KEY")


def test_a_renewed_one_differs_in_its_pair_alone() -> None:
    """Server, CA and names stay."""
    assert renewed(FULL, b"CERT2\n", b"KEY2\n") == kubeconfig(
        SERVER, "jane", ca=b"CA\n", cert=b"CERT2\n", key=b"KEY2\n"
    )
    with pytest.raises(UsageError, match="make a new one"):
        renewed("a: b", b"", b"")


OTHER = yaml.safe_load(FULL)
OTHER["users"].append({"name": "more", "user": {}})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "a: [",
        "kind: Pod",
        kubeconfig(SERVER, "jane", cluster="kubernetes"),
        yaml.safe_dump(OTHER),
    ],
)
def test_only_what_was_made_here_has_a_holder(text: str) -> None:
    """Others' files, and those to which somebody added a user, are not ours to replace."""
    assert holder(FULL) == "jane"
    assert holder(text) == ""
