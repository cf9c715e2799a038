"""Puts on a host's disk what it needs to be a master or a worker, before it starts.

    Plane, Pki --> certificates --> /etc/kubernetes/pki
               --> kubeconfigs  --> /etc/kubernetes/*.conf
               --> settings     --> /etc/netd/conf.d, /etc/nodeagent/conf.d
               --> saved state  --> /var/lib/netd      (masters of a cluster without etcd yet)
               --> manifests    --> /etc/kubernetes/manifests

*root* is the host's root folder: ``/`` on the host itself, its disk on the machine that holds a
lab. Everything can be repeated: what is there and still fits stays, except for the manifests and
settings, which are written again when their text changes.
"""

import hashlib
import time
from pathlib import Path

import msgspec

from hostkit.files import write_atomic
from lab.errors import LabError
from lab.master import agents, certificates
from lab.master.certificates import (
    BESIDE_API,
    KUBECONFIGS,
    NETD_OF_OLD,
    NODE_KUBECONFIGS,
    Wanted,
)
from lab.master.kubeconfig import kubeconfig
from lab.master.manifests import KUBERNETES, PKI, manifests
from lab.master.pki import Pair, Pki
from lab.master.plane import API_PORT, Master, Plane
from netd.leases.model import DEFAULT_PREFIX, subnet_key
from netd.overlay.model import VxlanOptions
from netd.state import SavedRecord, State

STATE_FILE = "/var/lib/netd/state.json"


class Host:
    """A host of the cluster *plane*, whose certificates are issued by *pki*."""

    def __init__(self, root: Path, plane: Plane, pki: Pki, name: str, address: str) -> None:
        self._root = root
        self._plane = plane
        self._pki = pki
        self._master = plane.master(name)
        self.name = name
        self.address = address

    @property
    def prepared(self) -> bool:
        """Whether the disk has this version's settings, from ``provision``."""
        return self._path(agents.NETD_FILE).exists()

    def provision(self) -> None:
        """Write certificates, kubeconfigs and settings; raises LabError."""
        self.certify()
        try:
            self._settings()
            self._retire()
        except OSError as error:
            raise LabError(f"{self.name} cannot be prepared: {error}") from error

    def certify(self) -> None:
        """Write certificates and kubeconfigs, where those that are there do not last."""
        master = self._master
        try:
            self._authorities()
            self._users(certificates.for_node(self.name, self.address))
            if master is not None:
                for wanted in certificates.for_master(self._plane, master):
                    self._issue(wanted)
                self._users(certificates.for_users(self._plane))
        except OSError as error:
            raise LabError(f"{self.name} cannot be prepared: {error}") from error

    def begin(self) -> None:
        """Let a master's netd come up before there is an etcd to lease a subnet from.

        netd needs etcd, etcd is a container, containers need docker0, and docker0 netd's subnet.
        netd knows how to begin without etcd, by what it saved before a reboot; so a new master
        begins as one that was rebooted, and registers the subnet as soon as etcd answers. It also
        remembers those of the other masters: they are registered before anybody can lease one.
        """
        master = self._master
        if master is None or self._path(STATE_FILE).exists():
            return
        state = State(
            vtep_mac=self._plane.first_mac(master),
            subnet=str(self._plane.first_subnet(master)),
            public_ip=self.address,
            config=agents.network_config(self._plane),
            saved_at=time.time(),
            records=[self._first_record(one) for one in self._plane.masters],
        )
        self._write(STATE_FILE, msgspec.json.encode(state), 0o600)

    def _first_record(self, master: Master) -> SavedRecord:
        """The lease record that *master* will have."""
        return SavedRecord(
            key=f"{DEFAULT_PREFIX}/subnets/{subnet_key(self._plane.first_subnet(master))}",
            public_ip=master.address,
            backend_type="vxlan",
            vni=VxlanOptions().vni,
            vtep_mac=self._plane.first_mac(master),
            # None would make it a reservation. etcd gives it another one.
            lease_id=1,
            create_revision=0,
        )

    def place_manifests(self) -> None:
        """Write a master's manifests: from then on nodeagent starts the control plane."""
        if self._master is None:
            return
        for name, text in manifests(self._plane, self._master, self._certified()).items():
            self._write(f"{agents.MANIFESTS}/{name}", text.encode(), 0o600)

    def _certified(self) -> dict[str, str]:
        """A digest of the certificates that each daemon uses, by its name."""
        used: dict[str, list[bytes]] = {}
        for name, daemons in sorted(certificates.USED_BY.items()):
            path = self._path(f"{PKI}/{name}.crt")
            for daemon in daemons if path.exists() else ():
                used.setdefault(daemon, []).append(path.read_bytes())
        return {
            daemon: hashlib.sha256(b"".join(texts)).hexdigest()[:16]
            for daemon, texts in used.items()
        }

    def _authorities(self) -> None:
        master = self._master is not None
        self._pki.authorities()
        target = self._path(PKI)
        names = certificates.AUTHORITIES if master else certificates.NODE_AUTHORITIES
        self._pki.copy_authorities(target, names, keys=master)

    def _issue(self, wanted: Wanted) -> Pair:
        return self._pki.issue(wanted, self._path(PKI))

    def _users(self, wanted: tuple[Wanted, ...]) -> None:
        """Issue certificates; some go into a kubeconfig as well."""
        for one in wanted:
            pair = self._issue(one)
            if one.name in (*KUBECONFIGS, *NODE_KUBECONFIGS):
                text = kubeconfig(
                    self._server(one.name),
                    one.common_name,
                    ca=self._pki.authority("ca"),
                    cert=pair.cert.read_bytes(),
                    key=pair.key.read_bytes(),
                )
                self._write(f"{KUBERNETES}/{one.name}.conf", text.encode(), 0o600)

    def _server(self, user: str) -> str:
        # TLS also in --insecure.
        nearest = self._master or self._plane.masters[0]
        address = "127.0.0.1" if user in BESIDE_API else nearest.address
        return f"https://{address}:{API_PORT}"

    def _settings(self) -> None:
        netd = agents.netd_settings(self._plane, self.name, self.address)
        agent = agents.nodeagent_settings(self._plane, self.name, self.address)
        self._write(agents.NETD_FILE, agents.toml(netd).encode(), 0o644)
        self._write(agents.NODEAGENT_FILE, agents.toml(agent).encode(), 0o644)
        if self._master is not None:
            self._write(agents.NETWORK_FILE, agents.network_config(self._plane).encode(), 0o644)

    def _retire(self) -> None:
        """Take away what earlier versions put where the operator's settings belong now.

        netd's certificate for Kubernetes' etcd goes as well.
        """
        for path in map(self._path, agents.FILES_OF_OLD):
            if path.is_file() and path.read_bytes().startswith(f"{agents.HEAD}\n".encode()):
                path.unlink()
        for suffix in ("crt", "key"):
            self._path(f"{PKI}/{NETD_OF_OLD}.{suffix}").unlink(missing_ok=True)

    def _path(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _write(self, path: str, data: bytes, mode: int) -> None:
        write_atomic(self._path(path), data, mode=mode)
