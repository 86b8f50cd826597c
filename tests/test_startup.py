"""What is imported when: lists of modules, each from a fresh interpreter. Times are in ``benchmarks/startup.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from benchmarks import startup
from tests.arm import ROOT

HEAVY = {"jinja2", "matplotlib", "polars", "rich", "scipy", "typer"}
OPTIONS = {"annotated_types", "pydantic", "pydantic_core", "typing_inspection"}
"""What it takes to check options before a training starts."""
LATER = ("cli", "data", "drill", "forensics.rerun", "probe", "report.advice", "report.page", "report.plot")
"""Parts of the package that a training does not begin with."""


def imported(first: str, then: str) -> set[str]:
    """Return the modules of packages that statements import beyond those before them, in a fresh interpreter."""
    code = (
        f"import json, sys\n{first}\nbefore = {{name.partition('.')[0] for name in sys.modules}}\n{then}\n"
        "print(json.dumps([name for name in sys.modules if name.partition('.')[0] not in before]))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return set(json.loads(done.stdout.splitlines()[-1]))


def packages(modules: set[str]) -> set[str]:
    """Return the packages that modules belong to, without the standard library's and ours."""
    return {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - {"yolo_gradsafe"}


def test_installing_adds_little_to_what_ultralytics_brings():
    pytest.importorskip("tomllib")
    sizes = startup.added()
    assert sum(sizes.values()) < 30e6, sizes
    assert not {"plotly", "narwhals"} & set(sizes)


def test_the_package_by_itself_imports_nothing():
    modules = imported("import importlib, typing", "import yolo_gradsafe")
    assert {name for name in modules if name.startswith("yolo_gradsafe")} == {"yolo_gradsafe"}
    assert not packages(modules)


def test_a_guard_adds_its_options_to_what_ultralytics_imports():
    modules = imported("from ultralytics import RTDETR, YOLO", "from yolo_gradsafe import GradSafe; GradSafe('detect')")
    assert packages(modules) <= OPTIONS, "what else is needed is imported when it is used"
    assert not {f"yolo_gradsafe.{part}" for part in LATER} & modules


@pytest.mark.parametrize("name", ["GradSafe", "YOLO", "ConfigError"])
def test_an_import_brings_no_package_that_ultralytics_has_not_brought(name):
    modules = imported("from ultralytics import RTDETR, YOLO", f"from yolo_gradsafe import {name}")
    assert not packages(modules), "not even what checks the options, before there are any"


def test_a_summary_is_read_without_what_makes_one():
    modules = imported("import typing", "from yolo_gradsafe import Summary")
    assert not packages(modules) & (HEAVY | {"cv2", "numpy", "torch", "ultralytics"})


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["train", "--help"], ["drill", "--help"], ["config", "show", "detect"]],
    ids=" ".join,
)
def test_the_command_answers_without_torch(words):
    command = (
        f"sys.argv = ['gradsafe', *{words!r}]\ntry:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    )
    modules = imported("from contextlib import suppress", f"from yolo_gradsafe.cli import main\n{command}")
    assert not packages(modules) & (HEAVY - {"rich", "typer"} | {"cv2", "numpy", "torch", "ultralytics"})
