"""The package as it is handed out: what is in it, and that it works without the checkout."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.arm import ROOT
from yolo_gradsafe import __version__

pytestmark = pytest.mark.slow
NAME = f"yolo_gradsafe-{__version__}"


def python(*words: str, cwd: Path, path: str = "") -> str:
    env = {**os.environ, "PYTHONPATH": path, "HOME": str(cwd)}
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sdist and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    python("-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """Return a folder that the wheel was unpacked into."""
    (file,) = built.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(built / "unpacked")
    return built / "unpacked"


def test_both_are_named_after_the_one_version(built):
    assert {path.name for path in built.iterdir() if path.is_file()} == {
        f"{NAME}.tar.gz",
        f"{NAME}-py3-none-any.whl",
    }
    python("-m", "twine", "check", "--strict", *map(str, built.glob("yolo*")), cwd=built)


def test_the_wheel_holds_the_package_and_the_presets_alone(wheel):
    own = {file.relative_to(ROOT) for file in (ROOT / "yolo_gradsafe").rglob("*") if file.is_file()}
    own = {file for file in own if "__pycache__" not in file.parts}
    presets = {Path("yolo_gradsafe/configs", file.name) for file in (ROOT / "configs").glob("*.yaml")}
    files = {file.relative_to(wheel) for file in wheel.rglob("*") if file.is_file()}
    about = {file for file in files if file.parts[0] == f"{NAME}.dist-info"}
    assert files - about == own | presets
    assert Path("yolo_gradsafe/py.typed") in files
    assert {file.name for file in about} >= {"METADATA", "LICENSE", "entry_points.txt"}


def test_the_wheel_says_what_it_is(wheel):
    about = wheel / f"{NAME}.dist-info"
    metadata = email.message_from_string((about / "METADATA").read_text(encoding="utf-8"))
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "AGPL-3.0-or-later AND MIT"
    assert "gradsafe = yolo_gradsafe.cli:main" in (about / "entry_points.txt").read_text()


def test_command_and_presets_work_from_the_wheel_alone(wheel, tmp_path):
    where = python("-c", "import yolo_gradsafe; print(yolo_gradsafe.__file__)", cwd=tmp_path, path=str(wheel))
    assert Path(where.strip()).is_relative_to(wheel)
    shown = python("-m", "yolo_gradsafe", "config", "show", "detect", cwd=tmp_path, path=str(wheel))
    assert shown == (ROOT / "configs" / "detect.yaml").read_text()[-len(shown) :]
    presets = python("-m", "yolo_gradsafe", "config", "presets", cwd=tmp_path, path=str(wheel)).splitlines()
    assert [line.split()[0] for line in presets] == sorted(file.stem for file in (ROOT / "configs").glob("*.yaml"))


def test_the_sdist_holds_what_its_tests_need(built):
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        inside = {Path(name).relative_to(NAME) for name in archive.getnames()}
    for folder in ("benchmarks", "configs", "docs", "examples", "scripts", "tests", "yolo_gradsafe"):
        here = {file.relative_to(ROOT) for file in (ROOT / folder).rglob("*") if file.is_file()}
        assert {file for file in here if "__pycache__" not in file.parts} <= inside
    names = "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "SECURITY.md", "pyproject.toml"
    assert {*map(Path, names), Path(".ci/run")} <= inside
