"""Which libraries the .deb brings along, and what of them is shipped."""

import importlib.util
import sys
from pathlib import Path, PurePosixPath
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def _load() -> ModuleType:
    # The folder's name is that of a library, so it cannot be imported by it.
    spec = importlib.util.spec_from_file_location("bundle", ROOT / "packaging" / "bundle.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bundle"] = module
    spec.loader.exec_module(module)
    return module


bundle = _load()

LOCK = """\
# comment
aiohttp==3.14.5 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via barenode (pyproject.toml)
Typing_Extensions==4.16.0 \\
    --hash=sha256:cc
    # via
    #   aiosignal
loose==1.0
"""


def test_names_are_read_without_comments_and_in_normal_form() -> None:
    listed = "# why\nprometheus_client\n\n  pyroute2  # netlink\n"
    assert bundle.read_names(listed) == ("prometheus-client", "pyroute2")


def test_a_pinned_line_has_the_version_and_every_hash_of_the_lock() -> None:
    assert bundle.pinned(LOCK, ["typing-extensions", "aiohttp"]) == (
        "Typing_Extensions==4.16.0 --hash=sha256:cc\n"
        "aiohttp==3.14.5 --hash=sha256:aa --hash=sha256:bb\n"
    )


@pytest.mark.parametrize("name", ["unknown", "loose"])
def test_a_library_without_version_or_without_hash_is_refused_by_name(name: str) -> None:
    with pytest.raises(bundle.BundleError, match=name):
        bundle.pinned(LOCK, [name])


@pytest.mark.parametrize(
    ("path", "shipped"),
    [
        ("aiohttp/web.py", True),
        ("aiohttp/_http_parser.cpython-311-x86_64-linux-gnu.so", True),
        ("aiohttp-3.14.5.dist-info/METADATA", True),
        ("aiohttp-3.14.5.dist-info/RECORD", False),
        ("aiohttp-3.14.5.dist-info/licenses/LICENSE.txt", False),
        ("aiohttp/_http_parser.pyx", False),
        ("aiohttp/.hash/_cparser.pxd.hash", False),
        ("msgspec/__init__.pyi", False),
        ("multidict/_testcapi.cpython-311-x86_64-linux-gnu.so", False),
        ("bin/ss2", False),
        ("pyroute2/tests/test_x.py", False),
        ("docker/__pycache__/errors.cpython-311.pyc", False),
        ("pyroute2/requests/RECORD", True),
    ],
)
def test_only_what_runs_is_shipped(path: str, shipped: bool) -> None:
    assert bundle.is_shipped(PurePosixPath(path)) is shipped


def test_notices_of_vendored_parts_are_licences_too() -> None:
    path = PurePosixPath("aiohttp-3.14.5.dist-info/licenses/vendor/llhttp/LICENSE")
    assert bundle.is_licence(path)
    assert not bundle.is_licence(PurePosixPath("docker/licenses.py"))


def test_a_module_loses_its_interpreter_and_keeps_its_lines() -> None:
    assert bundle.as_module(b"#!/usr/bin/env python\nimport os\n") == b"#\nimport os\n"
    assert bundle.as_module(b"import os\n#!late\n") == b"import os\n#!late\n"


def test_metadata_carries_the_version_that_the_commands_show(tmp_path: Path) -> None:
    (tmp_path / "lab" / "assets").mkdir(parents=True)
    (tmp_path / "lab" / "assets" / "pod.yaml").write_text("kind: Pod\n")
    (tmp_path / "lab" / "README.md").write_text("not shipped\n")
    for package in bundle.PRODUCT:
        (tmp_path / package).mkdir(exist_ok=True)
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    into = tmp_path / "into"
    bundle.copy_product(tmp_path, into)
    files = {str(path.relative_to(into)) for path in into.rglob("*") if path.is_file()}
    modules = {f"{package}/__init__.py" for package in bundle.PRODUCT}
    assert files == modules | {"lab/assets/pod.yaml", "barenode-0.1.0.dist-info/METADATA"}
    text = (into / "barenode-0.1.0.dist-info" / "METADATA").read_text()
    assert "Version: 0.1.0\n" in text
    assert "Requires-Dist: aiohttp>=" in text


def _distribution(folder: Path, name: str, version: str, *requires: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {one}" for one in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def test_requirements_are_met_by_bundled_libraries_and_by_debians(tmp_path: Path) -> None:
    own, system = tmp_path / "own", tmp_path / "system"
    _distribution(own, "docker", "7.2.0", "requests>=2.26", "pywin32; sys_platform == 'win32'")
    _distribution(own, "yarl", "1.25", "multidict>=4.0", "idna>=2", "tox; extra == 'test'")
    _distribution(own, "multidict", "7.2")
    _distribution(system, "requests", "2.28.1")
    _distribution(system, "idna", "3.3")
    assert bundle.unmet(own, system) == []


def test_what_is_missing_or_too_old_is_said_in_a_sentence(tmp_path: Path) -> None:
    own, system = tmp_path / "own", tmp_path / "system"
    _distribution(own, "docker", "7.2.0", "requests>=2.26", "urllib3>=1.26")
    _distribution(system, "requests", "2.20")
    assert bundle.unmet(own, system) == [
        "docker needs requests>=2.26 and gets 2.20",
        "docker needs urllib3>=1.26, which is neither bundled nor a dependency",
    ]
