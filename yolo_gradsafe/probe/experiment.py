"""The experiment: a real trainer, measurements on it, a trial of what they suggest; only the result stays behind."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from yolo_gradsafe import adapter
from yolo_gradsafe.adapter.device_memory import give_back, out_of_memory
from yolo_gradsafe.adapter.probe_trainer import ProbeTrainer, fresh_folder, progress, unchanged
from yolo_gradsafe.probe import plot
from yolo_gradsafe.probe.advice import advise, headline
from yolo_gradsafe.probe.headroom import judge_headroom, measure_extremes
from yolo_gradsafe.probe.init import measure_init
from yolo_gradsafe.probe.lr_range import measure_range
from yolo_gradsafe.probe.parts import Setup
from yolo_gradsafe.probe.result import ProbeError, ProbeResult
from yolo_gradsafe.probe.trial import Plan, make_plan
from yolo_gradsafe.probe.verify import verify

__all__ = ["BUDGET", "OWN_WORDS", "probe", "run_probe"]

OWN_WORDS = ("range_steps", "trial_steps")
"""Arguments of the experiment that are not Ultralytics'."""

BUDGET = 120.0
"""Seconds that the experiment takes at most, roughly, unless another number is given."""

SPARE = 8.0
"""Seconds of it for what comes after the short trainings, and for batches that take longer than the first ones."""

MOST_RANGE_STEPS, FEWEST_RANGE_STEPS = 60, 20
RANGE_SHARE = 0.4
"""Share of the time for the range test, the short trainings having the rest."""


def probe(
    model: str,
    data: str,
    out: Path | None = None,
    seed: int = 0,
    range_steps: int | None = None,
    trial_steps: int | None = None,
    budget: float = BUDGET,
    **train_args: Any,
) -> ProbeResult:
    """Find out by experiment which clip value and learning rate a training wants, and whether AMP is safe for it.

    Takes the user's data, loss, optimizer, batch and accumulation, in fp32, on one device. Another learning rate or
    clip value is recommended only where short trainings with it, beside trainings with the user's settings, were better
    by more than seeds differ. The model's file stays as it is, all that the trainer writes goes to a temporary folder
    (Ultralytics' label caches excepted), and random states are put back. With ``range_steps`` and ``trial_steps``, two
    runs with the same arguments on the same machine give the same result but for the time.

    Args:
        model: Weights or model YAML, as Ultralytics names them: ``yolo26n.pt``, ``yolo26n.yaml``.
        data: Data set YAML, as Ultralytics names it.
        out: Folder for ``probe.json`` and ``probe.png``; nothing is written without one.
        seed: Seed of initialisation, order of the images and augmentation.
        range_steps: Steps of the learning-rate range test, of one batch each, at least 20; None takes 20 to 60, as the
            budget allows.
        trial_steps: Optimizer steps of each short training, at least 5; None takes as many as the budget allows.
        budget: Seconds for all of it, roughly, at least 1; too few leave everything as it is.
        **train_args: Ultralytics' training arguments: ``imgsz``, ``batch``, ``nbs``, ``optimizer``, ``device``, ...

    Returns:
        What was found.

    Raises:
        FileNotFoundError: Model or data set are not there.
        ProbeError: A number of steps, or the budget, is too small.
        SyntaxError: An argument that Ultralytics does not know.
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range.

    Note:
        In fp32 a batch takes twice the memory of AMP. Where the device has too little the batch is halved until it
        fits, and ``advice.notes`` says so.
    """
    least = {"range_steps": (range_steps, 20), "trial_steps": (trial_steps, 5), "budget": (budget, 1)}
    for name, (value, lowest) in least.items():
        if value is not None and not value >= lowest:
            raise ProbeError(f"expected {name} of at least {lowest}, got {value}")
    clock = _Clock(budget, range_steps, trial_steps)
    experiment = partial(_experiment, model, data, seed, clock)
    wanted, batch, result = 0, 0, None
    while result is None:
        own = {**train_args, "batch": batch} if batch else train_args
        with unchanged(), TemporaryDirectory(prefix="gradsafe-probe-") as folder:
            trainer = ProbeTrainer(model, data, Path(folder), seed, own)
            batch = trainer.batch_size
            wanted = wanted or batch
            try:
                result = experiment(trainer, own)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
        del trainer  # with the error, which keeps what the experiment has on the device
        if result is None:
            if batch == 1:
                raise ProbeError("the device has too little memory for a single image in fp32")
            give_back()
            batch //= 2
    notes = [_SMALLER.format(wanted=wanted, batch=batch)] if batch < wanted else []
    advice = result.advice.model_copy(update={"notes": [*notes, *result.advice.notes]})
    result = result.model_copy(update={"advice": advice, "seconds": round(clock.seconds, 1)})
    if out is not None:
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        result.save(out / "probe.json")
        plot.draw(result, out / "probe.png")
    return result


_SMALLER = "the device has too little memory for a batch of {wanted} in fp32: a batch of {batch} was taken"


def _experiment(
    model: str, data: str, seed: int, clock: _Clock, trainer: ProbeTrainer, train_args: dict[str, Any]
) -> ProbeResult:
    """Make the experiment on one trainer."""
    setup = _setup(trainer, model, data, seed, train_args)
    bar = _Bar(2 + 5 * MOST_RANGE_STEPS)
    bar.now("first look")
    trainer.reset(seed)
    init = measure_init(trainer.model, trainer.forward)
    bar.tick()
    clock.start_batches()
    extremes = measure_extremes(trainer.model, trainer.forward)
    bar.tick()
    steps = clock.range_steps()
    bar.expect(5 * steps)
    bar.now("learning rates")
    clock.start_batches()
    lr_range = measure_range(trainer, steps, seed, bar.tick)
    clock.end_batches(len(lr_range.lr))

    def look() -> None:
        for _ in range(2):
            measure_extremes(trainer.model, trainer.forward, extremes)

    trial, norms = verify(trainer, setup, lr_range, lambda arms: clock.plan(setup, arms), bar, look)
    bar.close()
    headroom = judge_headroom(extremes)
    advice = advise(setup, init, lr_range, trial, norms, headroom)
    return ProbeResult(
        headline=headline(init, lr_range, trial, advice, setup, headroom),
        setup=setup,
        init=init,
        lr_range=lr_range,
        trial=trial,
        norms=norms,
        headroom=headroom,
        advice=advice,
        seconds=round(clock.seconds, 1),
    )


def run_probe(words: dict[str, Any], out: Path | None = None, budget: float = BUDGET) -> ProbeResult:
    """Make the experiment as the command line asks for it.

    Args:
        words: ``model``, ``data``, the experiment's own words (``seed`` and ``OWN_WORDS``) and Ultralytics' arguments.
        out: Folder for the result; a new ``runs/probe`` without one.
        budget: Seconds for all of it.

    Raises:
        SyntaxError: ``model`` or ``data`` are missing, or an argument is unknown.
        ProbeError: As ``probe`` does; TypeError and ValueError likewise.
    """
    for name in ("model", "data"):
        if not words.get(name):
            raise SyntaxError(f"'{name}' is missing, e.g. model=yolo26n.pt data=coco8.yaml")
    own = {name: int(words[name]) for name in ("seed", *OWN_WORDS) if words.get(name) is not None}
    rest = {name: value for name, value in words.items() if name not in {"model", "data", "seed", *OWN_WORDS}}
    folder = fresh_folder(Path("runs/probe")) if out is None else Path(out)
    return probe(str(words["model"]), str(words["data"]), out=folder, budget=budget, **own, **rest)


class _Clock:
    """How much there is time for."""

    def __init__(self, budget: float, range_steps: int | None, trial_steps: int | None) -> None:
        self._started = self._batches_started = time.perf_counter()
        self._budget = budget
        self._range_steps = range_steps
        self._trial_steps = trial_steps
        self._batch_seconds = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    def start_batches(self) -> None:
        """Measure how long batches take from here."""
        self._batches_started = time.perf_counter()

    def end_batches(self, batches: int) -> None:
        """So many batches were trained on since ``start_batches``."""
        self._batch_seconds = (time.perf_counter() - self._batches_started) / batches

    def range_steps(self) -> int:
        """Return the steps of the range test, after a single batch."""
        self.end_batches(1)
        affordable = int(RANGE_SHARE * (self._budget - self.seconds) / self._batch_seconds)
        return self._range_steps or max(FEWEST_RANGE_STEPS, min(MOST_RANGE_STEPS, affordable))

    def plan(self, setup: Setup, arms: int) -> Plan | None:
        """Return how long the short trainings are, None where there is too little time."""
        if self._trial_steps is not None:
            return Plan(self._trial_steps, setup.accumulate)
        left = self._budget - self.seconds - SPARE
        return make_plan(left, self._batch_seconds, setup.batch, setup.accumulate, arms)


class _Bar:
    """A progress bar over batches, whose number is corrected when it is known what there is time for."""

    def __init__(self, batches: int) -> None:
        self._bar = progress(batches)

    def tick(self) -> None:
        """Count a batch."""
        self._bar.update(1)

    def now(self, what: str) -> None:
        """Say what goes on."""
        self._bar.set_description(f"probe: {what}")

    def expect(self, batches: int) -> None:
        """Take in that so many batches are to come."""
        self._bar.total = self._bar.n + batches

    def close(self) -> None:
        """End the bar, with what was not needed taken off."""
        self._bar.total = self._bar.n
        self._bar.close()


def _setup(trainer: ProbeTrainer, model: str, data: str, seed: int, arguments: dict[str, Any]) -> Setup:
    return Setup(
        model=model,
        data=data,
        task=trainer.task,
        optimizer=trainer.optimizer_name,
        optimizer_auto=str(arguments.get("optimizer", "auto")) == "auto",
        lr0=trainer.lr0,
        batch=trainer.batch_size,
        accumulate=trainer.accumulate,
        steps=trainer.planned_steps,
        imgsz=trainer.image_size,
        device=trainer.device,
        seed=seed,
        arguments={name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()},
        environment=adapter.versions(),
    )
