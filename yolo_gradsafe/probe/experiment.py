"""The experiment: a real trainer, four measurements on it, the advice; nothing is left behind but the result."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from yolo_gradsafe import adapter
from yolo_gradsafe.adapter.device_memory import give_back, out_of_memory
from yolo_gradsafe.adapter.probe_trainer import ProbeTrainer, fresh_folder, progress, unchanged
from yolo_gradsafe.probe import plot
from yolo_gradsafe.probe.advice import advise, first_lr, headline
from yolo_gradsafe.probe.headroom import judge_headroom, measure_extremes
from yolo_gradsafe.probe.init import measure_init
from yolo_gradsafe.probe.lr_range import measure_range
from yolo_gradsafe.probe.norms import WARMUP, measure_norms
from yolo_gradsafe.probe.parts import Norms, Setup, rounded
from yolo_gradsafe.probe.result import ProbeError, ProbeResult

__all__ = ["OWN_WORDS", "default_norm_steps", "probe", "run_probe"]

OWN_WORDS = ("range_steps", "norm_steps")
"""Arguments of the experiment that are not Ultralytics'."""

TRIES = 3
"""Learning rates that are tried, each a third of the one before, until one holds."""


def probe(
    model: str,
    data: str,
    out: Path | None = None,
    seed: int = 0,
    range_steps: int = 60,
    norm_steps: int | None = None,
    **train_args: Any,
) -> ProbeResult:
    """Find out by experiment which clip value and learning rate a training wants, and whether AMP is safe for it.

    Takes the user's data, loss, optimizer, batch and accumulation, in fp32, on one device. Two runs with the same
    arguments on the same machine give the same result but for the time. The model's file stays as it is, all that the
    trainer writes goes to a temporary folder (Ultralytics' label caches excepted), and random states are put back.

    Args:
        model: Weights or model YAML, as Ultralytics names them: ``yolo26n.pt``, ``yolo26n.yaml``.
        data: Data set YAML, as Ultralytics names it.
        out: Folder for ``probe.json`` and ``probe.png``; nothing is written without one.
        seed: Seed of initialisation, order of the images and augmentation.
        range_steps: Steps of the learning-rate range test, at least 20, of one batch each.
        norm_steps: Optimizer steps whose norms are taken, at least 1; None takes 20 to 60, fewer where a step has many
            batches.
        **train_args: Ultralytics' training arguments: ``imgsz``, ``batch``, ``nbs``, ``optimizer``, ``device``, ...

    Returns:
        What was found.

    Raises:
        FileNotFoundError: Model or data set are not there.
        ProbeError: The number of steps is too small.
        SyntaxError: An argument that Ultralytics does not know.
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range.

    Note:
        In fp32 a batch takes twice the memory of AMP. Where the device has too little the batch is halved until it
        fits, and ``advice.notes`` says so.
    """
    if range_steps < 20 or (norm_steps is not None and norm_steps < 1):
        raise ProbeError(f"expected range_steps >= 20 and norm_steps >= 1, got {range_steps} and {norm_steps}")
    started = time.perf_counter()
    experiment = partial(_experiment, model, data, seed, range_steps, norm_steps)
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
    result = result.model_copy(update={"advice": advice, "seconds": round(time.perf_counter() - started, 1)})
    if out is not None:
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        result.save(out / "probe.json")
        plot.draw(result, out / "probe.png")
    return result


_SMALLER = "the device has too little memory for a batch of {wanted} in fp32: a batch of {batch} was taken"


def _experiment(
    model: str,
    data: str,
    seed: int,
    range_steps: int,
    norm_steps: int | None,
    trainer: ProbeTrainer,
    train_args: dict[str, Any],
) -> ProbeResult:
    """Make the measurements with a trainer that is set up."""
    setup = _setup(trainer, model, data, seed, train_args)
    steps = norm_steps or default_norm_steps(trainer.accumulate)
    bar = progress(range_steps + WARMUP + steps * trainer.accumulate + 4)

    def tick() -> None:
        bar.update(1)

    def look() -> Any:
        tick()
        return trainer.forward()

    trainer.reset(seed)
    init = measure_init(trainer.model, look)
    extremes = measure_extremes(trainer.model, look)
    lr_range = measure_range(trainer, range_steps, seed, tick)
    norms = _try_rates(trainer, first_lr(lr_range, trainer.lr0), steps, seed, bar)
    for _ in range(2):  # on the weights that the steps have left
        measure_extremes(trainer.model, look, extremes)
    bar.close()
    headroom = judge_headroom(extremes)
    advice = advise(setup, init, lr_range, norms, headroom)
    return ProbeResult(
        headline=headline(init, advice, setup, headroom),
        setup=setup,
        init=init,
        lr_range=lr_range,
        norms=norms,
        headroom=headroom,
        advice=advice,
        seconds=0.0,
    )


def run_probe(words: dict[str, Any], out: Path | None = None) -> ProbeResult:
    """Make the experiment as the command line asks for it.

    Args:
        words: ``model``, ``data``, the experiment's own words (``seed`` and ``OWN_WORDS``) and Ultralytics' arguments.
        out: Folder for the result; a new ``runs/probe`` without one.

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
    return probe(str(words["model"]), str(words["data"]), out=folder, **own, **rest)


def default_norm_steps(accumulate: int) -> int:
    """Return the optimizer steps whose norms are taken: about 96 batches, within 20 to 60 steps."""
    return max(20, min(60, 96 // accumulate))


def _try_rates(trainer: ProbeTrainer, lr: float, steps: int, seed: int, bar: Any) -> Norms:
    """Take the norms at the first learning rate that holds."""
    tick: Callable[[], None] = lambda: bar.update(1)  # noqa: E731
    norms = measure_norms(trainer, lr, steps, trainer.accumulate, seed, tick)
    for _ in range(TRIES - 1):
        if norms.held:
            break
        bar.total += WARMUP + steps * trainer.accumulate
        lr = rounded(lr / 3)
        norms = measure_norms(trainer, lr, steps, trainer.accumulate, seed, tick)
    return norms


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
        imgsz=trainer.image_size,
        device=trainer.device,
        seed=seed,
        arguments={name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()},
        environment=adapter.versions(),
    )
