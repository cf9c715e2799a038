"""What a host looks like to its administrator: files, users, units, links, routes, rules.

Two looks are compared before a package is installed and after it was purged. The script is sent
to the host's own Python: thousands of files are read in a second there.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence

Look = dict[str, dict[str, str]]
Ask = Callable[[Sequence[str]], str]

LEFT_OUT: Mapping[str, str] = {
    "/proc": "the kernel's",
    "/sys": "the kernel's",
    "/dev": "the kernel's and udev's",
    "/tmp": "nobody keeps anything there",
    "/var/tmp": "named anew at each boot for each unit with files of its own",
    "/root": "where the test puts its files",
    "/run/containerd": "Docker's own",
    "/run/docker": "Docker's own",
    "/run/docker.sock": "made anew at each start of Docker",
    "/run/docker.pid": "made anew at each start of Docker",
    "/run/log": "the journal",
    "/run/systemd": "the manager's and the units' state; units are compared by name",
    "/run/udev": "udev's cache",
    "/run/initctl": "the manager's",
    "/run/mount": "libmount's cache",
    "/run/host": "of the machine that the host runs on",
    "/run/utmp": "who is logged in, and when the host was booted",
    "/run/xtables.lock": "made by the first iptables, whoever calls it",
    "/run/nsenter": "of the test",
    "/var/backups": "dpkg's, made anew by a timer at midnight",
    "/var/cache/apt": "apt's",
    "/var/cache/debconf": "debconf's",
    "/var/cache/ldconfig": "ldconfig's",
    "/var/cache/man": "man-db's index",
    "/var/lib/apt": "apt's",
    "/var/lib/containerd": "Docker's own",
    "/var/lib/docker": "Docker's own: images that pods pulled stay there",
    "/var/lib/dpkg": "dpkg's, of which the package's own entries are compared",
    "/var/lib/systemd/catalog": "the journal's",
    "/var/lib/systemd/random-seed": "made anew at each boot",
    "/var/lib/systemd/timers": "when Debian's timers ran last",
    "/var/log": "what happened stays written",
    "/etc/ld.so.cache": "ldconfig's",
    "/etc/docker/key.json": "Docker's own, made at its first start",
}
"""Folders and files that are not compared, and why."""

_FILES = """
import hashlib, json, os, stat, sys
left_out = set(json.loads(sys.argv[1]))
found = {}
def see(path):
    try:
        about = os.lstat(path)
    except OSError:
        return
    if stat.S_ISLNK(about.st_mode):
        what = os.readlink(path)
    elif stat.S_ISREG(about.st_mode):
        with open(path, 'rb') as file:
            what = hashlib.sha256(file.read()).hexdigest()
    else:
        what = ''
    found[path] = f'{about.st_mode:o} {about.st_uid}:{about.st_gid} {what}'
for folder, folders, files in os.walk('/'):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in left_out]
    for name in [*folders, *files]:
        path = os.path.join(folder, name)
        if path not in left_out:
            see(path)
print(json.dumps(found))
"""


def look(ask: Ask) -> Look:
    """The host now. *ask* runs a command there and returns its output."""
    return {
        "files": json.loads(ask(["python3", "-I", "-c", _FILES, json.dumps(list(LEFT_OUT))])),
        "users": _lines(ask(["cat", "/etc/passwd", "/etc/group"])),
        "units": _lines(
            ask(["systemctl", "list-unit-files", "--no-legend", "--plain", "--no-pager"])
        ),
        "links": _lines(_without_chance(ask(["ip", "-d", "-o", "link"]))),
        "addresses": _lines(_without_chance(ask(["ip", "-o", "-4", "address"]))),
        "routes": _lines(_without_chance(ask(["ip", "-4", "route", "show", "table", "all"]))),
        "neighbours": _lines(ask(["ip", "neigh", "show", "nud", "permanent"])),
        "policies": _lines(ask(["ip", "rule"])),
        "iptables": _lines(_rules(ask(["iptables-save"]))),
        "iptables-legacy": _lines(_rules(ask(["iptables-legacy-save"]))),
        "packages": _lines(ask(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n"])),
    }


def changes(before: Look, after: Look) -> list[str]:
    """One line for each thing that is there, gone or different, nothing when all is the same."""
    said = []
    for part, old in before.items():
        new = after[part]
        said += [f"{part}: gone: {key} {old[key]}" for key in sorted(old.keys() - new.keys())]
        said += [f"{part}: new: {key} {new[key]}" for key in sorted(new.keys() - old.keys())]
        said += [
            f"{part}: {key} was {old[key]}, is {new[key]}"
            for key in sorted(old.keys() & new.keys())
            if old[key] != new[key]
        ]
    return said


def _lines(text: str) -> dict[str, str]:
    return {line.strip(): "" for line in text.splitlines() if line.strip()}


def _rules(text: str) -> str:
    # Docker sets the policy DROP only where it is the first to switch forwarding on, and that
    # stays on: others may need it by now.
    return re.sub(r"(?m)^#.*$|^:FORWARD .*$|\[\d+:\d+\]", "", text)


def _without_chance(text: str) -> str:
    """Without what differs each time: numbers of links, addresses of bridges, timers."""
    text = re.sub(r"(?m)^\d+: |(?<=@)if\d+", "", text)
    text = re.sub(r"link/ether \S+", "link/ether", text)
    text = re.sub(r"\b(bridge_id|designated_root) \S+", "", text)
    text = re.sub(r"\b(hello|tcn|topology_change|gc)_timer +\S+", "", text)
    # The kernel tells a second late that a bridge has lost its last container.
    return re.sub(r"<[^>]*>|\bstate \S+|\bmode \S+| linkdown\b", "", text)
