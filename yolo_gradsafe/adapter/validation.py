"""A validation that is not finite, or absurd: in fp16 an overflow, in fp32 a model that broke after its last good step.

Ultralytics validates in fp16 wherever it trains with AMP, under bf16 too. Activations of a healthy model may overflow
there, and the epoch is then scored NaN though nothing is wrong with the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from yolo_gradsafe.adapter.device_memory import give_back, out_of_memory
from yolo_gradsafe.adapter.random_states import keep_random_states
from yolo_gradsafe.judge.learning import ABSURD

__all__ = ["SafeValidation"]

_HELPED = 0.1
"""Share that an absurdly large validation loss falls to with weights that help."""


class SafeValidation:
    """Stands in for ``trainer.validate``.

    Repeats in fp32 a validation that was not finite in fp16, and stays there. One that is not finite in fp32, or whose
    losses are absurd (1e3 and more, or all exactly 0: the model predicts nothing), is repeated with weights that
    were good not long ago; if that does not help, it is the data, and all is put back.

    Args:
        trainer: The trainer.
        validate: Its own ``validate``.
        agree: Returns the largest of some numbers over the ranks.
        told: Called when validation goes over to fp32.
        rescue: Puts trusted weights in place, given which losses are not finite, and returns what is told whether they
            helped, and tells whether they stay; None if it cannot.
    """

    def __init__(
        self,
        trainer: Any,
        validate: Callable[[], Any],
        agree: Callable[[list[float]], list[float]],
        told: Callable[[], None],
        rescue: Callable[[list[str]], Callable[[bool], bool] | None],
    ) -> None:
        self._trainer = trainer
        self._validate = validate
        self._agree = agree
        self._told = told
        self._rescue = rescue
        self._hopeless = self._too_large = False
        self._best: Any = None  # fitness before this validation
        self.full = False
        """Whether validation runs in fp32."""

    def __call__(self) -> Any:
        """Validate as the trainer does."""
        self._best = getattr(self._trainer, "best_fitness", None)
        result = self._in_its_precision()
        if not self._anywhere(_bad(result)):
            self._hopeless = False
            return result
        settle = None if self._hopeless else self._rescue(_not_finite(result))
        if settle is None:
            return result
        put_back = _undo(self._trainer)
        second = self._repeat(self._in_its_precision) or result
        helped = not self._anywhere(_bad(second) or _still_large(second, result))
        stay = settle(helped)
        if not stay:
            put_back()
        self._hopeless = not helped
        return second if stay else result

    def _in_its_precision(self) -> Any:
        if not self.full:
            result = self._validate()
            overflows = self._halved() and not _finite(result) and not self._too_large
            if not self._anywhere(overflows):
                return result
            self.full = True
            self._told()
            return self._repeat(self._in_full) or result
        return self._within_memory(self._in_full) or self._validate()

    def _in_full(self) -> Any:
        with _in_full_precision(self._trainer):
            return self._validate()

    def _repeat(self, validate: Callable[[], Any]) -> Any:
        """Validate once more; the fitness of what it stands in for is none that a later epoch must beat."""
        left, self._trainer.best_fitness = getattr(self._trainer, "best_fitness", None), self._best
        result = self._within_memory(validate)
        if result is None:
            self._trainer.best_fitness = left
        return result

    def _within_memory(self, validate: Callable[[], Any]) -> Any:
        """Validate as stock would not; None where there is no memory for it, on any rank: it is not tried again."""
        result = None
        try:
            result = validate()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        if not self._anywhere(result is None):
            return result
        give_back()
        self._too_large, self.full = True, False
        return None

    def _anywhere(self, so: bool) -> bool:
        """Whether it is so on any rank; those above 0 have no losses."""
        return bool(self._agree([float(so)])[0])

    def _halved(self) -> bool:
        """Whether the validation that just ran was in fp16: ``quantize`` says so, ``half`` in older versions."""
        args = getattr(self._trainer.validator, "args", None)
        return getattr(args, "quantize", None) == 16 or bool(getattr(args, "half", False))


@contextmanager
def _in_full_precision(trainer: Any) -> Iterator[None]:
    """Let the validator find a trainer without AMP: it asks no other."""
    amp, trainer.amp = trainer.amp, False
    try:
        yield
    finally:
        trainer.amp = amp


def _undo(trainer: Any) -> Callable[[], None]:
    """Return what puts back all that a second validation moves: random states and the best fitness so far."""
    put_back_random_states = keep_random_states(getattr(trainer, "device", torch.device("cpu")))
    best = getattr(trainer, "best_fitness", None)

    def put_back() -> None:
        put_back_random_states()
        trainer.best_fitness = best

    return put_back


def _bad(result: Any) -> bool:
    return not _finite(result) or _absurd(result)


def _finite(result: Any) -> bool:
    """Whether fitness and validation losses are finite; ranks above 0 have none."""
    return not _not_finite(result)


def _absurd(result: Any) -> bool:
    """Whether a validation loss is far beyond every model, or all of them are exactly 0."""
    losses = [float(value) for value in _losses(result).values()]
    return any(loss > ABSURD for loss in losses) or (bool(losses) and not any(losses))


def _still_large(second: Any, first: Any) -> bool:
    """Whether a loss that was absurdly large did not fall to a tenth with other weights: it may be just that large."""
    pairs = zip(_losses(first).values(), _losses(second).values(), strict=False)
    return any(ABSURD < float(old) < math.inf and float(new) > _HELPED * float(old) for old, new in pairs)


def _not_finite(result: Any) -> list[str]:
    """Return the names of the validation losses that are not finite, and ``fitness`` where that is not."""
    fitness = result[1] if isinstance(result, tuple) else None
    told = {**_losses(result), "fitness": fitness}
    return [str(k) for k, v in told.items() if v is not None and not math.isfinite(float(v))]


def _losses(result: Any) -> dict[str, Any]:
    metrics = result[0] if isinstance(result, tuple) else None
    return {k: v for k, v in metrics.items() if str(k).startswith("val/")} if isinstance(metrics, Mapping) else {}
