"""What /usr/bin/netd, nodeagent and barenode are made of."""

import subprocess
import sys
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parents[2] / "packaging" / "launcher"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise KeyboardInterrupt", 130),
        ("def main(): raise KeyboardInterrupt", 130),
        ("def main(): return 5", 5),
    ],
)
def test_an_interrupt_at_any_time_ends_without_a_traceback(
    code: str, status: int, tmp_path: Path
) -> None:
    """130 is what a shell says of it; the daemon's own status is passed on."""
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing/__main__.py").write_text(f"{code}\n")
    text = LAUNCHER.read_text().replace("/usr/lib/barenode", str(tmp_path))
    script = tmp_path / "script"
    script.write_text(text.replace("@MODULE@", "thing").replace("@NAME@", "thing"))
    done = subprocess.run(
        [sys.executable, "-I", "-B", str(script)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (status, "")
