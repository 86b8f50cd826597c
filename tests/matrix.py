"""The tests that depend on the version of Ultralytics, under each supported one: ``make matrix``.

    python tests/matrix.py                       # a fresh environment for each release, with its own torch
    python tests/matrix.py --versions 8.3.218    # some of them
    python tests/matrix.py --quick               # the wheels alone, over the torch and the Python that are here

A fresh environment takes 6 GB and a minute or two, and is removed after its tests unless ``--keep`` names a folder.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

TESTS = (
    "tests/adapter",
    "tests/test_guard.py",
    "tests/test_run.py::test_a_script_trains_guarded_and_its_model_is_as_before",
    "tests/runs/test_crash.py",
    "tests/runs/test_first_word.py",
    "tests/runs/test_tasks.py",
    "tests/runs/test_parity.py::test_healthy_run_equals_stock[detect-SGD-accumulated]",
    "tests/runs/test_parity.py::test_healthy_run_equals_stock[pose-auto-every-batch]",
    "tests/runs/test_parity.py::test_scaler_with_routine_overflows_equals_stock[float16]",
    "tests/runs/test_nan_batch.py::test_the_run_equals_the_run_without_that_batch[SGD-scaler]",
    "tests/runs/test_nan_batch.py::test_the_first_batch_of_all_leaves_no_trace",
    "tests/runs/test_nan_batch.py::test_accumulation_drops_the_window_of_the_bad_batch",
    "tests/runs/test_recovery.py::test_a_model_that_overflows_fp16_goes_on_in_bf16",
    "tests/runs/test_recovery.py::test_healed_weights_are_those_of_the_snapshot_and_nothing_else_changes",
)
"""What depends on the version: 2 to 4 minutes on a quiet machine."""

EXTRAS = ("pytest", "pytest-xdist", "hypothesis")


@dataclass(frozen=True)
class Release:
    """A release of Ultralytics, and what it is tested with."""

    ultralytics: str
    """Version; empty for the newest."""
    python: str
    """Version of Python that is looked for first."""
    newest_python: str
    """The newest one that its torch has wheels for; empty for any."""
    torch: str
    torchvision: str
    limit: str = ""
    """What a failure's text says where it is a known limit of that release."""

    @property
    def name(self) -> str:
        """Its name in the table and in the options."""
        return self.ultralytics or "newest"

    @property
    def requirements(self) -> list[str]:
        """What pip installs beside the package."""
        wanted = {"ultralytics": self.ultralytics, "torch": self.torch, "torchvision": self.torchvision}
        return [f"{name}=={version}" if version else name for name, version in wanted.items()]


COLLAPSE = "Fitness collapse"
"""8.4.104 repeats an epoch by itself whenever the fitness falls back to 0, as it may in training on tiny data."""

RELEASES = (
    Release("8.3.218", "3.10", "3.12", "2.4.1", "0.19.1"),
    Release("8.3.253", "3.10", "3.13", "2.6.0", "0.21.0"),
    Release("8.4.80", "3.11", "3.13", "2.8.0", "0.23.0"),
    Release("8.4.104", "3.11", "3.13", "2.9.1", "0.24.1", COLLAPSE),
    Release("8.4.140", "3.12", "3.13", "2.11.0", "0.26.0"),
    Release("8.4.172", "3.12", "3.13", "2.13.0", "0.28.0"),
    Release("", "", "", "", ""),
)


@dataclass(frozen=True)
class Row:
    """What came of a release."""

    release: str
    torch: str = ""
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    limited: int = 0
    seconds: float = 0.0
    note: str = ""


def find_python(wanted: str, newest: str) -> str | None:
    """Return an interpreter of a version, from PATH or pyenv; else the one that runs, if it is not too new."""
    roots = {os.environ.get("PYENV_ROOT"), Path.home() / ".pyenv"} - {None}
    known = [path for root in roots for path in sorted(Path(root, "versions").glob(f"{wanted}.*/bin/python"))]
    for candidate in [shutil.which(f"python{wanted}"), *map(str, reversed(known))] if wanted else []:
        if candidate and version_of(candidate) == wanted:
            return candidate
    return sys.executable if not newest or sys.version_info[:2] <= tuple(map(int, newest.split("."))) else None


def version_of(python: str) -> str:
    """Return an interpreter's version as ``3.10``; empty where it does not run, as a shim may not."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def fresh(release: Release, folder: Path) -> Path:
    """Make an environment with a release and the torch that goes with it; return its interpreter."""
    python = find_python(release.python, release.newest_python)
    if python is None:
        raise LookupError(f"no Python up to {release.newest_python} for torch {release.torch}")
    inside = folder / "bin" / "python"
    if not inside.exists():
        run([python, "-m", "venv", str(folder)])
    run([str(inside), "-m", "pip", "install", "-q", *release.requirements, *EXTRAS, "--editable", str(ROOT)])
    return inside


def wheel(release: Release, folder: Path) -> Path:
    """Unpack a release's wheel; return the folder to put in front of what is installed."""
    if not (folder / "ultralytics").is_dir():
        with tempfile.TemporaryDirectory() as room:
            wanted = release.requirements[0]
            run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", room, wanted])
            [file] = Path(room).glob("*.whl")
            zipfile.ZipFile(file).extractall(folder)
    return folder


def run(command: list[str]) -> None:
    """Run a command of the setup.

    Raises:
        LookupError: It failed; with the end of what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LookupError((done.stderr or done.stdout).strip()[-600:])


def run_tests(release: Release, python: Path, paths: Iterable[Path], jobs: int, select: str, log: Path) -> Row:
    """Run the tests and count."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env |= {"PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT])), "YOLO_OFFLINE": "true"}
    code = "import torch, ultralytics; print(torch.__version__, ultralytics.__version__)"
    seen = subprocess.run([str(python), "-c", code], env=env, capture_output=True, text=True, check=False)
    torch, version = (seen.stdout.split() or ["", ""])[-2:]
    if release.ultralytics not in {"", version}:
        return Row(release.name, torch, failed=1, note=f"Ultralytics {version} is what runs: {seen.stderr[-300:]}")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as room:
        report = Path(room, "report.xml")
        command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *TESTS]
        command += (["-n", str(jobs)] if jobs > 1 else []) + (["-m", select] if select else [])
        with log.open("w", encoding="utf-8") as out:
            code = subprocess.run(command, cwd=ROOT, env=env, stdout=out, stderr=out, check=False).returncode
        seconds = time.monotonic() - start
        if not report.exists() or code > 1:
            return Row(release.name, torch, failed=1, seconds=seconds, note=f"pytest ended with {code}, see {log}")
        return count(release, version, torch, seconds, ElementTree.parse(report).getroot())


def count(release: Release, version: str, torch: str, seconds: float, report: ElementTree.Element) -> Row:
    """Count the outcomes of a report of pytest; a failure of a known limit is none."""
    cases = list(report.iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    limited = [
        case for case in bad if release.limit and release.limit in ElementTree.tostring(case, encoding="unicode")
    ]
    failed = [case for case in bad if case not in limited]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return Row(
        f"{release.name} ({version})" if release.name != version else version,
        re.sub(r"\+.*", "", torch),
        len(cases) - len(bad) - skipped,
        len(failed),
        skipped,
        len(limited),
        seconds,
        ", ".join(case.get("name", "") for case in failed[:3]),
    )


def table(rows: list[Row]) -> str:
    """Lay the rows out."""
    head = (
        f"{'ultralytics':<20}{'torch':<9}{'passed':>7}{'failed':>7}{'skipped':>8}{'by known limit':>15}{'minutes':>8}"
    )
    lines = [
        f"{r.release:<20}{r.torch:<9}{r.passed:>7}{r.failed:>7}{r.skipped:>8}{r.limited:>15}{r.seconds / 60:>8.1f}"
        + (f"  {r.note}" if r.note else "")
        for r in rows
    ]
    return "\n".join([head, *lines])


def main() -> int:
    """Run the matrix; return 1 if a test failed that is no known limit."""
    names = [release.name for release in RELEASES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", default=" ".join(names), help=f"some of: {' '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="only the wheel of each, over the torch that is installed")
    parser.add_argument("--jobs", type=int, default=2, help="tests at a time")
    parser.add_argument("--select", default="", help="pytest's -m, such as 'slow or not slow'")
    parser.add_argument("--optional", action="store_true", help="skip, with the reason, what cannot be set up here")
    parser.add_argument("--keep", type=Path, help="folder for the environments and logs, which then stay")
    options = parser.parse_args()
    if unknown := set(options.versions.split()) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {' '.join(names)}")
    room = options.keep or Path(tempfile.mkdtemp(prefix="gradsafe-matrix-"))
    room.mkdir(parents=True, exist_ok=True)
    rows = []
    for release in RELEASES:
        if release.name not in options.versions.split():
            continue
        folder, log = room / release.name, room / f"{release.name}.log"
        try:
            python = Path(sys.executable) if options.quick else fresh(release, folder)
            paths = [wheel(release, folder)] if options.quick else []
            rows.append(run_tests(release, python, paths, options.jobs, options.select, log))
        except LookupError as error:
            rows.append(Row(release.name, failed=int(not options.optional), note=f"cannot be set up here: {error}"))
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
        print(table(rows[-1:]), flush=True)
    print("\n" + table(rows))
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
