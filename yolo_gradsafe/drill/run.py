"""Runs cases: every training in a process of its own, each clean one once for all the cases that it serves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yolo_gradsafe
from yolo_gradsafe.drill.case import REPORT, RUN, Arm, Case, Recipe, clean_arm, draw, faulty_arm
from yolo_gradsafe.drill.catalogue import find
from yolo_gradsafe.drill.judgement import Clean, judge
from yolo_gradsafe.drill.outcome import Outcome
from yolo_gradsafe.drill.table import Row

__all__ = ["run_arm", "run_cases"]

_PACKAGES = str(Path(yolo_gradsafe.__file__).parents[1])
_LONGEST = 4 * 3600


def run_cases(
    cases: Sequence[Case],
    recipe: Recipe,
    out: Path,
    seeds: int = 3,
    jobs: int = 1,
    options: dict[str, Any] | None = None,
    resume: bool = False,
    stock: bool = True,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Train all that the cases need, and judge it.

    Args:
        cases: The cases.
        recipe: How large the trainings are.
        out: Folder of the trainings, the logs and the drawn data.
        seeds: Clean trainings to take the spread of the accuracy from.
        jobs: Trainings at a time, each on one thread.
        options: Options of the guard that win over the defaults.
        resume: Take over what ``out`` holds of the same trainings.
        stock: Train stock with the fault, too.
        say: Told after every training.
    """
    out = out.resolve()
    seeds = seeds if recipe.learns else 1
    clean = {case: [clean_arm(case, find(case.fault), recipe, out, seed) for seed in range(seeds)] for case in cases}
    arms_of = (True, False) if stock else (True,)
    faulty = {
        case: [faulty_arm(case, find(case.fault), recipe, out, guarded, options) for guarded in arms_of]
        for case in cases
    }
    arms = {arm.folder: arm for case in cases for arm in (*clean[case], *faulty[case])}
    outcomes = _run_all(arms, jobs, resume, say)
    rows = []
    for case in cases:
        scenario = find(case.fault)
        guarded, *unguarded = (outcomes[arm.folder] for arm in faulty[case])
        base = Clean([outcomes[arm.folder] for arm in clean[case]])
        judgement = judge(scenario.promise, scenario.make is not None, guarded, base, recipe.learns)
        rows.append(Row(case, unguarded[0] if unguarded else None, guarded, base, judgement, recipe.learns))
    return rows


def run_arm(arm: Arm, resume: bool = False) -> Outcome:
    """Train an arm in a fresh process, and return what became of it.

    Args:
        arm: The training.
        resume: Take over its report when its folder holds one of the very same training.
    """
    folder = Path(arm.folder)
    folder.mkdir(parents=True, exist_ok=True)
    spec, report = folder / "arm.json", folder / REPORT
    text = json.dumps(asdict(arm), indent=2)
    if not (resume and report.is_file() and spec.is_file() and spec.read_text(encoding="utf-8") == text):
        report.unlink(missing_ok=True)
        spec.write_text(text, encoding="utf-8")
        _start(arm, spec)
    if not report.is_file():
        lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return Outcome(error=f"the process died: {lines[-1] if lines else 'without a word'}")
    return Outcome(**json.loads(report.read_text(encoding="utf-8")))


def _start(arm: Arm, spec: Path) -> None:
    path = os.pathsep.join([_PACKAGES, *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path}
    if arm.arguments["device"] == "cpu":
        env["OMP_NUM_THREADS"] = "1"
    shutil.rmtree(spec.parent / RUN, ignore_errors=True)  # Ultralytics would add to its results.csv
    command = [sys.executable, "-m", "yolo_gradsafe.drill.arm", str(spec)]
    with (spec.parent / "log.txt").open("w", encoding="utf-8") as log:
        subprocess.run(command, cwd=spec.parent, env=env, stdout=log, stderr=subprocess.STDOUT, timeout=_LONGEST)


def _run_all(arms: dict[str, Arm], jobs: int, resume: bool, say: Callable[[str], None]) -> dict[str, Outcome]:
    done: list[str] = []
    lock = threading.Lock()

    def one(arm: Arm) -> Outcome:
        try:
            outcome = run_arm(arm, resume)
        except subprocess.TimeoutExpired:
            outcome = Outcome(error=f"not done within {_LONGEST} s")
        with lock:
            done.append(arm.folder)
            say(f"[{len(done)}/{len(arms)}] {_name(arm)}: {_brief(outcome)}")
        return outcome

    _draw_once(arms.values())
    with ThreadPoolExecutor(jobs) as pool:
        return dict(zip(arms, pool.map(one, arms.values()), strict=True))


def _draw_once(arms: Iterable[Arm]) -> None:
    """Draw the data before trainings that share it start side by side."""
    seen = set()
    for arm in arms:
        if arm.drawn and arm.drawn not in seen:
            seen.add(arm.drawn)
            draw(arm)


def _name(arm: Arm) -> str:
    folder = Path(arm.folder)
    return f"{folder.parent.name}, {folder.name}" if folder.name in {"stock", "guarded"} else folder.name


def _brief(outcome: Outcome) -> str:
    return f"{outcome.error or 'finished'} ({outcome.seconds:.0f} s)"
