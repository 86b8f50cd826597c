"""What it takes to import the package and to start its command, each in a fresh interpreter.

    python benchmarks/startup.py [--repeats 15]

An import is timed inside an interpreter that has imported ``from ultralytics import YOLO`` already, as a training
script has, and is compared to that import. A command is timed from outside, interpreter and all, and compared to an
interpreter that does nothing. All are run once a round, in turn; medians are printed. Files are in the page cache and
byte code is compiled, as from the second start on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("YOLO_OFFLINE", "true")

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
    return table("Start-up", ["what", "ms", "ratio to the first of its kind"], rows) + f"\n{machine('cpu')}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    print(f"\n{report(arguments)}")


if __name__ == "__main__":
    main()
