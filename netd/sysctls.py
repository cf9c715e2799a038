"""The kernel settings without which packets between containers of two hosts are not forwarded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NEEDED: Mapping[str, str] = {
    # Packets pass from docker0 to the overlay device and back.
    "net.ipv4.ip_forward": "1",
    # Frames between two ports of one bridge have to meet the iptables rules too; the file
    # exists only while the kernel's bridge netfilter is loaded.
    "net.bridge.bridge-nf-call-iptables": "1",
}

OPTIONAL = frozenset({"net.bridge.bridge-nf-call-iptables"})


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: what is *wanted*, what was *found*; *error* when it could not be made so."""

    name: str
    wanted: str
    found: str
    error: str = ""


def ensure(root: Path = Path("/proc/sys")) -> list[Setting]:
    """Set what is not as needed; returns every setting with what was found before."""
    result = []
    for name, wanted in NEEDED.items():
        path = root / name.replace(".", "/")
        try:
            found = path.read_text(encoding="ascii").strip()
        except OSError as error:
            if name not in OPTIONAL:
                result.append(Setting(name, wanted, "unreadable", error.strerror or str(error)))
            continue
        problem = ""
        if found != wanted:
            try:
                path.write_text(wanted, encoding="ascii")
            except OSError as error:
                problem = error.strerror or str(error)
        result.append(Setting(name, wanted, found, problem))
    return result
