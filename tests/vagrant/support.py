"""A Vagrant of the test's own: home, state and built files in its folder, no network."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
VAGRANT = ROOT / "vagrant"
SCRIPTS = VAGRANT / "scripts"
HERE = Path(__file__).parent

# Vagrant's driver for VirtualBox asks nothing but the version as long as no machine is there.
VBOXMANAGE = """#!/bin/sh
[ "$1" = --version ] && { echo 7.0.20r163906; exit 0; }
echo "not in a test: $*" >&2
exit 1
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with everything that Vagrant writes or looks for."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> "Place":
        """An empty one: nothing was built yet."""
        place = cls(folder)
        for name in ("home", "state", "dist/images", "bin"):
            (folder / name).mkdir(parents=True)
        tool = folder / "bin" / "VBoxManage"
        tool.write_text(VBOXMANAGE)
        tool.chmod(0o755)
        return place

    @property
    def dist(self) -> Path:
        """Where what was built lies."""
        return self.folder / "dist"

    def build(self, *names: str) -> None:
        """Pretend that files were built; Vagrant only looks whether they are there."""
        for name in names:
            (self.dist / name).write_bytes(b"")

    def environment(self, **settings: str) -> dict[str, str]:
        """The environment of Vagrant, with the lab's *settings*."""
        kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        return {
            **kept,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "VAGRANT_HOME": str(self.folder / "home"),
            "VAGRANT_DOTFILE_PATH": str(self.folder / "state"),
            "VAGRANT_CWD": str(VAGRANT),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "BARENODE_DIST": str(self.dist),
            **settings,
        }

    def vagrant(self, *words: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        """Run ``vagrant WORDS``."""
        return run(["vagrant", *words], self.environment(**settings))

    def read(self, provider: str, **settings: str) -> dict[str, Any]:
        """What Vagrant reads from the Vagrantfile."""
        found: dict[str, Any] = self._ruby("dump.rb", provider, **settings)
        return found

    def triggers(self, *cases: Mapping[str, object]) -> list[dict[str, Any]]:
        """What the triggers do in each of *cases*, one after the other; see trigger.rb."""
        usual = {"command": "up", "id": None, "master": "running", "answer": "", "noise": ""}
        told = json.dumps([{**usual, **case} for case in cases])
        found: list[dict[str, Any]] = self._ruby("trigger.rb", "libvirt", told)
        return found

    def _ruby(self, script: str, provider: str, *words: str, **settings: str) -> Any:
        argv = ["ruby", str(HERE / script), str(VAGRANT), provider, *words]
        done = run(argv, self.environment(PROVIDER=provider, **settings))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def run(argv: list[str], environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run *argv* with nothing on stdin; the caller looks at its status."""
    return subprocess.run(
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
