"""``barenode pki``: what it writes, what it says, and its exit statuses."""

import io
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from hostkit.kube.config import load
from hostkit.kube.credentials import Credentials
from lab.cli import Parser
from lab.errors import LabError, UsageError
from lab.master import pkicommand, x509
from lab.master.certificates import Wanted
from lab.master.pki import Expiry, Pki
from lab.output import Output

MASTERS = ("--master", "m1=10.0.9.1", "--master", "m2=10.0.9.2")
RANGE = ("--service-range", "10.0.0.0/24")


class Command:
    """The command on the folder *pki*, in this process."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.pki = home / "pki"
        self.errors = ""

    def __call__(self, name: str, *words: str) -> str:
        """What it prints; it has to exit 0."""
        status, text = self.status(name, *words)
        assert status == 0, self.errors
        return text

    def status(self, name: str, *words: str) -> tuple[int, str]:
        """Its exit status and what it prints."""
        parser = Parser(prog="barenode")
        pkicommand.add_arguments(parser.add_subparsers(dest="group"), "")
        args = parser.parse_args(["pki", name, "--pki-dir", str(self.pki), *words])
        out, errors = io.StringIO(), io.StringIO()
        output = Output(Console(file=out, width=200), Console(file=errors, width=200))
        status = pkicommand.run(args, output)
        self.errors = errors.getvalue()
        return status, out.getvalue()


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """The command on a folder that is not there yet."""
    return Command(tmp_path)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the making of one master leaves, made once: an RSA key takes its time."""
    home = tmp_path_factory.mktemp("ready")
    Command(home)("init", "--master", "m1=10.0.9.1", *RANGE)
    return home


@pytest.fixture
def one(command: Command, ready: Path) -> Command:
    """The command on a copy of it."""
    shutil.copytree(ready, command.home, dirs_exist_ok=True)
    return command


def tree(folder: Path) -> set[str]:
    """The files below *folder*."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


CONFS = {"admin.conf", "controller-manager.conf", "scheduler.conf", "nodeagent.conf", "netd.conf"}


def usable(conf: Path) -> tuple[str, ...]:
    """The servers in the kubeconfig *conf*, whose credentials OpenSSL can use."""
    found = load((), str(conf))
    assert Credentials(found).context() is not None
    assert conf.stat().st_mode & 0o7777 == 0o600
    return found.servers


def test_one_master_gets_the_layout_of_etc_kubernetes(one: Command) -> None:
    """Its own components talk to the API beside them, everybody else by its address."""
    found = tree(one.home)
    assert {*CONFS, "pki/ca.key", "pki/sa.pub", "pki/apiserver.crt", "pki/kubelet.key"} <= found
    assert usable(one.home / "admin.conf") == ("https://10.0.9.1:6443",)
    assert usable(one.home / "scheduler.conf") == ("https://127.0.0.1:6443",)
    assert usable(one.home / "nodeagent.conf") == ("https://10.0.9.1:6443",)
    openssl = ["openssl", "verify", "-CAfile", str(one.pki / "ca.crt")]
    subprocess.run([*openssl, str(one.pki / "apiserver.crt")], check=True, capture_output=True)


def test_a_second_call_keeps_everything(one: Command) -> None:
    """And says so."""
    before = {name: (one.home / name).read_bytes() for name in tree(one.home)}
    assert "m1: 0 certificates made, 14 kept" in one("init", "--master", "m1=10.0.9.1", *RANGE)
    assert {name: (one.home / name).read_bytes() for name in tree(one.home)} == before


def test_a_changed_plane_renews_what_it_concerns(one: Command) -> None:
    """A balancer's name is in the API's certificate alone."""
    words = ("--master", "m1=10.0.9.1", *RANGE, "--name", "api.example.org", "--domain", "x.y")
    assert "m1: 1 certificates made, 13 kept" in one("init", *words)
    names = Pki(one.pki).issued("apiserver").names
    assert "api.example.org" in names and "kubernetes.default.svc.x.y" in names


def test_several_masters_get_a_folder_each(command: Command) -> None:
    """With the keys that masters have in common; together they are one cluster."""
    out = command.home / "hosts"
    text = command("init", *MASTERS, *RANGE, "-o", str(out))
    assert f"{out}/m2: copy what is in it to m2:/etc/kubernetes" in text
    first, second = tree(out / "m1"), tree(out / "m2")
    assert first == second
    assert first >= CONFS and "pki/etcd/ca.key" in first
    for shared in ("ca.crt", "ca.key", "sa.key", "etcd/ca.key"):
        assert (out / "m1/pki" / shared).read_bytes() == (out / "m2/pki" / shared).read_bytes()
    assert usable(out / "m2/admin.conf") == ("https://10.0.9.2:6443",)
    assert "10.0.9.1" in Pki(out / "m2/pki").issued("apiserver").addresses


def test_several_masters_in_one_folder_are_refused(command: Command) -> None:
    """Their pairs have the same names; nothing is made before that is said."""
    with pytest.raises(UsageError, match="-o FOLDER"):
        command("init", *MASTERS, *RANGE)
    assert not command.pki.exists()


def test_a_node_gets_pairs_and_kubeconfigs_but_no_authority_s_key(one: Command) -> None:
    """Ready to be copied to its /etc/kubernetes."""
    out = one.home / "w1"
    text = one("node", "w1", "10.0.9.3", "-o", str(out), "--server", "https://10.0.9.1:6443")
    assert (
        text
        == f"w1: 3 certificates made, 0 kept, in {out}: copy what is in it to w1:/etc/kubernetes\n"
    )
    pairs = {
        f"pki/{name}.{kind}" for name in ("nodeagent", "kubelet", "netd") for kind in ("crt", "key")
    }
    assert tree(out) == {*pairs, "pki/ca.crt", "nodeagent.conf", "netd.conf"}
    assert usable(out / "nodeagent.conf") == ("https://10.0.9.1:6443",)


def test_a_node_of_several_masters_is_told_them_by_its_settings(one: Command) -> None:
    """Then its kubeconfig names none."""
    out = one.home / "w1"
    one("node", "w1", "10.0.9.3", "-o", str(out))
    servers = ("https://10.0.9.1:6443", "https://10.0.9.2:6443")
    assert load(servers, str(out / "netd.conf")).servers == servers


def test_a_user_gets_one_file(one: Command) -> None:
    """With groups as organizations; nothing of it stays in the folder."""
    before, conf = tree(one.pki), one.home / "jane.conf"
    words = ("--group", "dev", "--group", "ops", "-o", str(conf), "--server", "https://a:6443")
    assert one("user", "jane", *words) == f"{conf}: jane in dev, ops at https://a:6443\n"
    assert usable(conf) == ("https://a:6443",)
    assert tree(one.pki) == before
    found = x509.load_certificate(load((), str(conf)).cert_data.encode())
    assert x509.subject_text(found.subject) == "CN=jane, O=dev, O=ops"


def test_another_s_kubeconfig_is_not_replaced(one: Command) -> None:
    """One's own is, which is how it is renewed."""
    conf = one.home / "config"
    words = ("-o", str(conf), "--server", "https://a:6443")
    one("user", "jane", *words)
    one("user", "jane", *words)
    with pytest.raises(UsageError, match="not a kubeconfig that barenode made for jack"):
        one("user", "jack", *words)
    conf.write_text("kind: Config\nclusters: []\n")
    with pytest.raises(UsageError, match="move it away"):
        one("user", "jane", *words)


def test_show_lists_what_is_there(one: Command) -> None:
    """Columns for people, a document for programs, the same facts in both."""
    lines = one("show").splitlines()
    assert lines[0].split() == ["certificate", "subject", "issuer", "expires", "days"]
    assert lines[1].split()[:3] == ["ca", "CN=kubernetes", "itself"]
    hash_ = Pki(one.pki).fingerprint()
    assert lines[-1] == f"discovery hash {hash_}"
    document = json.loads(one("show", "--json"))
    assert document["fingerprint"] == hash_
    found = {entry["name"]: entry for entry in document["certificates"]}
    assert len(found) == len(lines) - 2 == 17
    assert found["etcd/peer"]["issuer"] == "etcd/ca"
    assert found["nodeagent"]["subject"] == "CN=system:node:m1, O=system:nodes"
    assert found["apiserver"]["days_left"] == 364


def test_the_table_says_when() -> None:
    """Dates in UTC, days that may be negative."""
    end = datetime(2030, 5, 6, 23, tzinfo=UTC)
    sheet = pkicommand.expiry_sheet([Expiry("x", "CN=x", "ca", end, -3, False)])
    assert sheet.rows == (("x", "CN=x", "ca", "2030-05-06", "-3"),)


def test_nothing_is_renewed_before_its_time(one: Command) -> None:
    """And nothing has to be restarted."""
    assert one("renew") == "nothing to renew: no certificate ends within 30 days\n"


def shorten(pki: Path, name: str) -> bytes:
    """Put a certificate with 20 days left in the place of *name*; returns it."""
    old = Pki(pki)
    pair = old.issue(old.issued(name), days=20, anew=True)
    return pair.cert.read_bytes()


def test_what_ends_soon_is_renewed_with_its_kubeconfig(one: Command) -> None:
    """And the daemons that use it are named."""
    before = [shorten(one.pki, name) for name in ("etcd/peer", "scheduler")]
    text = one("renew")
    conf = one.home / "scheduler.conf"
    assert text.splitlines() == [
        "etcd/peer renewed",
        "scheduler renewed",
        f"{conf} holds it",
        "restart where these are in use: etcd, etcd-network, kube-scheduler",
    ]
    after = [(one.pki / f"{name}.crt").read_bytes() for name in ("etcd/peer", "scheduler")]
    assert not set(before) & set(after)
    assert load((), str(conf)).cert_data.encode() == after[1]
    assert usable(conf) == ("https://127.0.0.1:6443",)


def test_all_are_renewed_on_demand(one: Command) -> None:
    """All that authorities sign; authorities never."""
    authority = (one.pki / "ca.crt").read_bytes()
    text = one("renew", "--all")
    assert text.count(" renewed") == 14 and text.count("holds it") == len(CONFS)
    assert text.splitlines()[-1] == (
        "restart where these are in use: etcd, etcd-network, kube-apiserver, kube-apiserver-http, "
        "kube-controller-manager, kube-scheduler, netd, nodeagent"
    )
    assert (one.pki / "ca.crt").read_bytes() == authority


def test_one_that_cannot_be_renewed_does_not_stop_the_others(one: Command) -> None:
    """Status 1, and the reason on stderr."""
    (one.pki / "front-proxy-ca.key").unlink()
    status, text = one.status("renew", "--all")
    assert status == 1
    assert text.count(" renewed") == 13
    assert "front-proxy-ca.key is missing" in one.errors


def test_the_end_of_an_authority_is_announced(tmp_path: Path) -> None:
    """Renewing leaves does not help against it."""
    command = Command(tmp_path)
    Pki(command.pki).authorities(days=90)
    Pki(command.pki).issue(Wanted("kubelet", "ca", "x", client=True))
    day = f"{datetime.now(UTC) + timedelta(days=90):%Y-%m-%d}"
    assert f"front-proxy-ca ends on {day} and nothing it signs lasts longer" in command("renew")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("init", "--master", "m1", *RANGE), "--master 'm1': '' is no IPv4 address"),
        (("init", "--master", "m_1=10.0.0.1", *RANGE), "--master: 'm_1' is neither"),
        (("init", "--master", "a=1.1.1.1", "--master", "a=1.1.1.2", *RANGE), "name a is given"),
        (("init", "--master", "a=1.1.1.1", "--master", "b=1.1.1.1", *RANGE), "address 1.1.1.1"),
        (("init", "--master", "a=1.1.1.1", "--service-range", "10.0.0.1/24"), "host bits"),
        (("init", "--master", "a=1.1.1.1", "--service-range", "10.0.0.1/32"), "use a /12 to /29"),
        (("init", "--master", "a=1.1.1.1", *RANGE, "--name", "a b"), "--name: 'a b' is neither"),
        (
            ("init", "--master", "a=1.1.1.1", *RANGE, "--domain", "x_y"),
            "--domain: 'x_y' is neither",
        ),
        (("node", "w1", "w1.example.org", "-o", "x"), "no IP address"),
        (("node", "w1", "1.1.1.1", "-o", "x", "--server", "10.0.0.1"), "--server '10.0.0.1'"),
        (("user", "x", "-o", "x", "--server", "http://a:8080"), "write it like https://"),
        (("user", "x", "-o", "x", "--server", "https://[::"), "write it like https://"),
        (("user", "x" * 65, "-o", "x", "--server", "https://a"), "common name"),
    ],
)
def test_wrong_values_are_refused_by_name(
    command: Command, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], text: str
) -> None:
    """With what to write in their place; the file system stays as it was."""
    monkeypatch.chdir(command.home)
    with pytest.raises(UsageError, match=text.replace("[", r"\[")):
        command(*words)
    assert not tree(command.home)


def test_an_empty_folder_is_said_to_be_empty(command: Command) -> None:
    """With the command that fills it."""
    for words in (("show",), ("renew",), ("node", "w1", "1.1.1.1", "-o", str(command.home / "x"))):
        with pytest.raises(LabError, match="'barenode pki init'"):
            command(*words)
    assert not tree(command.home)


def barenode(*words: str) -> "subprocess.CompletedProcess[str]":
    """The whole command, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "lab", "pki", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_whole_command_knows_the_group(one: Command) -> None:
    """Status 0 with a result, 1 for a folder without one, 2 for wrong usage; never a traceback."""
    done = barenode("show", "--pki-dir", str(one.pki), "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["certificates"]) == 17
    empty = barenode("show", "--pki-dir", str(one.home / "none"))
    assert empty.returncode == 1
    assert empty.stderr == (
        f"barenode: there is no certificate in {one.home / 'none'}: "
        "'barenode pki init' makes them\n"
    )
    wrong = barenode("init", "--master", "a", "--service-range", "10.0.0.0/24")
    assert wrong.returncode == 2 and "write it like" in wrong.stderr
    word = barenode("shwo")
    assert word.returncode == 2 and "did you mean 'show'" in word.stderr
