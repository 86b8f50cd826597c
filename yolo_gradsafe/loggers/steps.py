"""The optimizer steps for the loggers: one call every few steps, which sums up the steps since the last one."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from pydantic import Field

from yolo_gradsafe.config_base import Section
from yolo_gradsafe.telemetry.schema import StepRow, Verdict

__all__ = ["LoggersOptions", "Sink", "StepLogger", "summed_up"]

_COUNTED = [verdict.value for verdict in Verdict if verdict is not Verdict.OK]


class LoggersOptions(Section):
    """What is sent to the loggers beside the columns of ``results.csv``."""

    steps: bool = Field(
        default=False,
        description="(bool) send gradient norm, threshold, verdicts and stages' norms of the optimizer steps to the "
        "TensorBoard writer, W&B run and MLflow run that are active; off, since the epoch's columns reach them anyway",
    )
    every: int = Field(
        default=10,
        ge=1,
        description="(int) >= 1, optimizer steps that one call to the loggers sums up: medians, the largest norm, "
        "counts; 1 sends every step as it is, and costs a call a step",
    )
    on_incident: str | None = Field(
        default=None,
        pattern=r"^https?://[^/\s]+",
        description="(str) address, http or https, that each incident is posted to as JSON, of a kind once a minute at "
        "most; nobody by default. A function is GradSafe(on_incident=...)",
    )
    on_incident_seconds: float = Field(
        default=10.0,
        gt=0,
        le=300,
        description="(float) > 0, seconds that the address may take to answer, and the end of a training waits for the "
        "last message at most; training itself never waits",
    )


class Sink(Protocol):
    """A logger that takes scalars."""

    name: str
    """What its users call it."""

    def send(self, values: dict[str, float], step: int) -> None:
        """Take finite scalars by name, at an optimizer step of the run; raises what went wrong."""

    def close(self) -> None:
        """Finish what is under way; raises what went wrong. The logger itself is left as it is."""


class StepLogger:
    """Sends the steps of a run to its loggers; one that fails is left alone from then on.

    Args:
        every: Optimizer steps that one call sums up.
        find: Returns the loggers that are active; asked at the first call, when all of them have started.
        warn: Takes a warning for the user.
    """

    def __init__(self, every: int, find: Callable[[], list[Sink]], warn: Callable[[str], None]) -> None:
        self._every = every
        self._find = find
        self._warn = warn
        self._sinks: list[Sink] | None = None
        self._rows: list[StepRow] = []

    def add(self, row: StepRow) -> None:
        """Take a step; send if enough have gathered."""
        self._rows.append(row)
        if len(self._rows) >= self._every:
            self._send()

    def close(self) -> None:
        """Send what is left, and let the loggers finish."""
        if self._rows:
            self._send()
        for sink in self._sinks or ():
            self._attempt(sink, sink.close)

    def _send(self) -> None:
        rows, self._rows = self._rows, []
        if self._sinks is None:
            self._sinks = []  # also where the search fails: it is not made again
            self._sinks = self._find()
            if not self._sinks:
                self._warn("loggers.steps is on, but no TensorBoard writer, W&B run or MLflow run was found")
        if self._sinks:
            values = summed_up(rows)
            self._sinks = [s for s in self._sinks if self._attempt(s, partial(s.send, values, rows[-1].step))]

    def _attempt(self, sink: Sink, action: Callable[[], None]) -> bool:
        """Whether a logger did what it was asked for; the warning comes once, because it is not asked again."""
        try:
            action()
        except Exception as error:
            self._warn(f"{sink.name} failed, so no more steps are sent to it: {type(error).__name__}: {error}")
            return False
        return True


def summed_up(rows: Sequence[StepRow]) -> dict[str, float]:
    """Return what successive steps came to, under ``gradsafe_steps/``.

    ``loss``, ``grad_norm`` and the stages' norms are medians of the finite values, ``grad_norm_max`` the largest,
    so that a spike shows; ``clip_scale`` is the smallest, 0 if a step was not applied; ``threshold``, ``lr`` and
    ``amp_scale`` are the newest; ``verdict/*`` count steps. What is not finite is left out: not every store takes it.

    Args:
        rows: At least one step, in order.
    """
    newest, verdicts = rows[-1], Counter(row.verdict for row in rows)
    values = {
        "loss": _median(row.loss for row in rows),
        "grad_norm": _median(row.grad_norm for row in rows),
        "grad_norm_max": max(filter(math.isfinite, (row.grad_norm for row in rows)), default=math.nan),
        "clip_scale": min(row.clip_scale for row in rows),
        "threshold": newest.threshold,
        "lr": newest.lr,
        "amp_scale": newest.amp_scale,
        **{stage: _median(row.stages[stage] for row in rows) for stage in newest.stages},
        **{f"verdict/{verdict}": float(verdicts[verdict]) for verdict in _COUNTED},
    }
    return {f"gradsafe_steps/{name}": value for name, value in values.items() if math.isfinite(value)}


def _median(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return statistics.median(finite) if finite else math.nan
