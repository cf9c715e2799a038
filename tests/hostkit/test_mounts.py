"""The table of mounts."""

from pathlib import Path

import pytest

from hostkit.mounts import KernelMounts, Mounted, below, mount, parse_table, unmount

TABLE = (
    b"36 35 98:0 /mnt1 /a\\040b rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
    b"37 36 0:5 / /a\\040b/c\\134d rw shared:1 master:2 - tmpfs none rw\n"
    b"38 36 0:6 / /a\\040bc rw - proc proc rw\n"
    b"garbage\n"
    b"\n"
)


def test_lines_are_read_whatever_optional_fields_they_have() -> None:
    assert parse_table(TABLE) == (
        Mounted("/a b", "/mnt1", "98:0", "ext3", "/dev/root"),
        Mounted("/a b/c\\d", "/", "0:5", "tmpfs", "none"),
        Mounted("/a bc", "/", "0:6", "proc", "proc"),
    )


@pytest.mark.parametrize(
    ("folder", "wanted"),
    [("/a b", ["/a b", "/a b/c\\d"]), ("/a", []), ("/", ["/a b", "/a b/c\\d", "/a bc"])],
)
def test_below_is_by_whole_names(folder: str, wanted: list[str]) -> None:
    assert [one.target for one in below(parse_table(TABLE), folder)] == wanted


def test_the_kernels_table_has_a_root() -> None:
    assert any(one.target == "/" for one in KernelMounts().table())


def test_a_refused_call_names_itself(tmp_path: Path) -> None:
    place = str(tmp_path / "none")
    with pytest.raises(OSError, match=f"mount tmpfs x on {place}"):
        mount("x", place, "tmpfs")
    with pytest.raises(OSError, match=f"umount {place}"):
        unmount(place)
