"""Times things in turn, and prints what was found."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from ultralytics.utils import NUM_THREADS

__all__ = ["WARM_UP", "machine", "medians", "table"]

WARM_UP = 5
"""Rounds that are run but not counted."""


def medians(
    arms: Mapping[str, Callable[[], object]], repeats: int, device: str, before: Callable[[], object] | None = None
) -> dict[str, float]:
    """Time each arm once a round, so that what else the machine does strikes all alike.

    Args:
        arms: What to time, by name; every other round goes through them backwards.
        repeats: Rounds.
        device: Where they run: ``cpu``, or a GPU, which is waited for before and after each.
        before: Called before each arm, outside the clock.

    Returns:
        Median wall-clock milliseconds by name.
    """
    times: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(WARM_UP + repeats):
        for name in list(arms)[:: 1 if number % 2 else -1]:
            if before:
                before()
            took = _timed(arms[name], device)
            if number >= WARM_UP:
                times[name].append(took)
    return {name: statistics.median(values) * 1e3 for name, values in times.items()}


def _timed(action: Callable[[], object], device: str) -> float:
    """Return the seconds that an action takes."""
    _wait(device)
    start = time.perf_counter()
    action()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table: text to the left, numbers to the right."""
    numeric = [bool(rows) and isinstance(value, (int, float)) for value in (rows[0] if rows else columns)]
    lines = [columns, ["---:" if number else "---" for number in numeric], *([_cell(v) for v in row] for row in rows)]
    return f"### {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def machine(device: str) -> str:
    """Say in one line where this ran, and how busy the machine is."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    where = cpu if device == "cpu" else torch.cuda.get_device_name(int(device))
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return (
        f"{where}, {os.cpu_count()} cores, {NUM_THREADS} torch thread(s) as Ultralytics sets them, "
        f"torch {torch.__version__}, load average of the last minute {load}"
    )
