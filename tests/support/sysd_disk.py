"""What makes the disk of a test host that host's own, beside the root that all share."""

from pathlib import Path

from lab.machine import lacks_sys_resource

ASSETS = Path(__file__).parents[2] / "lab" / "assets"

# nspawn mounts cgroup v1 read-only, as of a container; a host's systemd and Docker write there.
_CGROUPS_UNIT = """\
[Unit]
Description=Control groups as on a host
DefaultDependencies=no
Before=sysinit.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'mount -o remount,rw /sys/fs/cgroup; \
for m in /sys/fs/cgroup/*/; do ! mountpoint -q $m || mount -o remount,bind,rw $m; done'

[Install]
WantedBy=sysinit.target
"""
_DAEMON_JSON = """\
{"default-runtime": "runc-lab", "runtimes": {"runc-lab": {"path": "/usr/local/bin/runc-lab"}}}
"""


def furnish(upper: Path, base: Path, name: str, address: str, gateway: str) -> None:
    """What makes a disk this host's, and a machine without CAP_SYS_RESOURCE enough for Docker."""
    files = {
        "etc/hostname": f"{name}\n",
        "etc/hosts": f"127.0.0.1 localhost\n{address} {name}\n",
        # Nothing answers there, and refuses at once.
        "etc/resolv.conf": f"nameserver {gateway}\n",
        "etc/systemd/system/host-cgroups.service": _CGROUPS_UNIT,
    }
    if lacks_sys_resource(Path("/proc/self/status").read_text()):
        files["etc/docker/daemon.json"] = _DAEMON_JSON
        files["usr/local/bin/runc-lab"] = (ASSETS / "runc-lab").read_text()
    for path, text in files.items():
        file = upper / path
        _folder(file.parent, upper, base)
        file.write_text(text)
        file.chmod(0o755 if path.startswith("usr/local/bin/") else 0o644)
    wants = upper / "etc/systemd/system/sysinit.target.wants"
    _folder(wants, upper, base)
    (wants / "host-cgroups.service").symlink_to("/etc/systemd/system/host-cgroups.service")
    # Debian's own settings are of the kernel as a whole, which is not this host's.
    masks = upper / "etc/sysctl.d"
    _folder(masks, upper, base)
    for file in (base / "usr/lib/sysctl.d").glob("*.conf"):
        (masks / file.name).symlink_to("/dev/null")


def _folder(path: Path, upper: Path, base: Path) -> None:
    """A folder of the upper layer with the mode of the one that it covers."""
    for part in reversed([path, *path.relative_to(upper).parents[:-1]]):
        folder = upper / part
        if not folder.exists():
            folder.mkdir()
            below = base / folder.relative_to(upper)
            folder.chmod(below.stat().st_mode & 0o7777 if below.is_dir() else 0o755)
