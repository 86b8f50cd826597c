"""A validation that is not finite: in fp16 an overflow, in fp32 a model that broke after its last judged step.

Ultralytics validates in fp16 wherever it trains with AMP, under bf16 too. Activations of a healthy model may overflow
there, and the epoch is then scored NaN though nothing is wrong with the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["SafeValidation"]


class SafeValidation:
    """Stands in for ``trainer.validate``.

    Repeats in fp32 a validation that was not finite in fp16, and stays there. One that is not finite in fp32 is
    repeated with weights that were good not long ago; if that does not help, it is the data, and all is put back.

    Args:
        trainer: The trainer.
        validate: Its own ``validate``.
        agree: Returns the largest of some numbers over the ranks.
        told: Called when validation goes over to fp32.
        rescue: Puts trusted weights in place, and returns what keeps (True) or undoes (False) that; None if it cannot.
    """

    def __init__(
        self,
        trainer: Any,
        validate: Callable[[], Any],
        agree: Callable[[list[float]], list[float]],
        told: Callable[[], None],
        rescue: Callable[[], Callable[[bool], None] | None],
    ) -> None:
        self._trainer = trainer
        self._validate = validate
        self._agree = agree
        self._told = told
        self._rescue = rescue
        self._hopeless = False
        self.full = False
        """Whether validation runs in fp32."""

    def __call__(self) -> Any:
        """Validate as the trainer does."""
        result = self._in_its_precision()
        if not self._bad(result):
            self._hopeless = False
            return result
        settle = None if self._hopeless else self._rescue()
        if settle is None:
            return result
        second = self._in_its_precision()
        helped = not self._bad(second)
        settle(helped)
        self._hopeless = not helped
        return second if helped else result

    def _in_its_precision(self) -> Any:
        if not self.full:
            result = self._validate()
            if not self._agree([float(self._halved() and not _finite(result))])[0]:
                return result
            self.full = True
            self._told()
        with _in_full_precision(self._trainer):
            return self._validate()

    def _bad(self, result: Any) -> bool:
        return bool(self._agree([float(not _finite(result))])[0])

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


def _finite(result: Any) -> bool:
    """Whether fitness and validation losses are finite; ranks above 0 have none."""
    metrics, fitness = result if isinstance(result, tuple) else (None, None)
    losses = [v for k, v in metrics.items() if str(k).startswith("val/")] if isinstance(metrics, Mapping) else []
    return all(math.isfinite(float(v)) for v in [*losses, fitness] if v is not None)
