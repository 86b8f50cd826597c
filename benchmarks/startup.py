"""What it takes to install the package, to import it and to start its command, each in a fresh interpreter.

    python benchmarks/startup.py [--repeats 15]

An import is timed inside an interpreter that has imported ``from ultralytics import YOLO`` already, as a training
script has, and is compared to that import. A command is timed from outside, interpreter and all, and compared to an
interpreter that does nothing. All are run once a round, in turn; medians are printed. Files are in the page cache and
byte code is compiled, as from the second start on.

Installed is what stands on disk, byte code included, of the packages that this one needs and Ultralytics does not.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("YOLO_OFFLINE", "true")

from packaging.requirements import Requirement

from benchmarks.harness import machine, table

ROOT = Path(__file__).parent.parent
BASE = "from ultralytics import YOLO"
IMPORTS = {
    BASE: ("pass", BASE),
    "import pydantic, and a model of one field": (
        BASE,
        "import pydantic; pydantic.create_model('Model', field=(int, 1))",
    ),
    "import yolo_gradsafe": (BASE, "import yolo_gradsafe"),
    "from yolo_gradsafe import GradSafe": (BASE, "from yolo_gradsafe import GradSafe"),
    "... and GradSafe('detect')": (BASE, "from yolo_gradsafe import GradSafe; GradSafe('detect')"),
}
"""What comes before the clock starts, and what is timed, by name."""
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "gradsafe --help": ["-m", "yolo_gradsafe", "--help"],
    "gradsafe config show detect": ["-m", "yolo_gradsafe", "config", "show", "detect"],
}


def time_import(before: str, statement: str) -> float:
    """Return the seconds that a statement takes in a fresh interpreter, after another one."""
    code = f"import time\n{before}\nstart = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"
    return float(_run(["-c", code]).splitlines()[-1])


def time_command(words: list[str]) -> float:
    """Return the seconds from the start of an interpreter to its end."""
    start = time.perf_counter()
    _run(words)
    return time.perf_counter() - start


def _run(words: list[str]) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words], env=env, check=True, capture_output=True, text=True).stdout


def added() -> dict[str, int]:
    """Return what installing adds to Ultralytics and its packages: bytes by package, the largest first."""
    import tomllib  # Python 3.11 and newer

    needs = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    package = ROOT / "yolo_gradsafe"
    own = sum(file.stat().st_size for file in package.rglob("*") if file.is_file() and file.suffix != ".pyc")
    new = closure(needs) - closure(["ultralytics"])
    sizes = {"yolo-gradsafe": own, **{name: _size(name) for name in new}}
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def closure(needs: Iterable[str]) -> set[str]:
    """Return the packages that requirements lead to, extras left out, of those that are installed."""
    found: set[str] = set()
    waiting = list(needs)
    while waiting:
        requirement = Requirement(waiting.pop())
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            waiting += distribution(name).requires or []
        except PackageNotFoundError:
            continue
        found.add(name)
    return found


def _size(name: str) -> int:
    files = (file.locate() for file in distribution(name).files or [])
    return sum(Path(file).stat().st_size for file in files if Path(file).is_file())


def report(arguments: Sequence[str] | None = None) -> str:
    """Measure and return the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args(arguments)
    imports: dict[str, list[float]] = {name: [] for name in IMPORTS}
    commands: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(options.repeats + 1):
        for times, took in (
            *((imports[name], time_import(*statements)) for name, statements in IMPORTS.items()),
            *((commands[name], time_command(words)) for name, words in COMMANDS.items()),
        ):
            if number:  # the first round fills the page cache and compiles
                times.append(took)
    rows: list[list[object]] = []
    for group in (imports, commands):
        medians = {name: statistics.median(times) * 1e3 for name, times in group.items()}
        base = next(iter(medians.values()))
        rows += [[f"`{name}`", took, took / base] for name, took in medians.items()]
    sizes = added()
    installed: list[list[object]] = [[f"`{name}`", size / 1e6] for name, size in sizes.items()]
    installed.append(["together", sum(sizes.values()) / 1e6])
    size_table = table("Installed beside Ultralytics' own packages", ["package", "MB"], installed)
    return (
        size_table
        + "\n"
        + table("Start-up", ["what", "ms", "ratio to the first of its kind"], rows)
        + f"\n{machine('cpu')}\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    print(f"\n{report(arguments)}")


if __name__ == "__main__":
    main()
