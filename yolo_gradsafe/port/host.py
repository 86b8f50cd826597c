"""A trainer in its run.

Nothing of the trainer that it may replace during a run (optimizer, scaler, EMA, loaders) is kept here: each is looked
up when it is needed.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from ultralytics.engine.trainer import BaseTrainer

from yolo_gradsafe.port.facts import Facts
from yolo_gradsafe.port.precision import precision_now, set_precision
from yolo_gradsafe.port.replay import Replay, composed, plain_batch
from yolo_gradsafe.port.shown import Shown
from yolo_gradsafe.port.state import TrainingState
from yolo_gradsafe.port.stepping import Stepping
from yolo_gradsafe.port.validation import SafeValidation

__all__ = ["Host"]

_KNOWN_STEPS = {
    "1f8cd1a26f5efdb9",  # up to 8.4.110
    "e1f8510bf8f2aa89",  # from 8.4.111: an NPU branch
}
"""Fingerprints of the ``BaseTrainer.optimizer_step`` bodies that ``step.py`` can stand in for."""


class Host(Facts, Stepping, Shown):
    """A trainer.

    Args:
        trainer: A ``BaseTrainer`` at or after ``on_pretrain_routine_end``, when all that is asked for below exists.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._one = torch.ones((), device=trainer.device)
        self._own: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}
        self.state = TrainingState(trainer)
        """Weights, buffers, EMA and optimizer state by name."""
        self._trained_in = "fp32"
        self._precision: str | None = None

    # The trainer's own methods ------------------------------------------------------------------------------------

    @property
    def step_is_stock(self) -> bool:
        """Whether the trainer's step is a body of Ultralytics that ``step.py`` can stand in for.

        It is not for a subclass or an instance with an ``optimizer_step`` of its own, for a version that changed the
        body, and on an NPU.
        """
        step = self._own["optimizer_step"][0] if "optimizer_step" in self._own else self.trainer.optimizer_step
        stock = getattr(step, "__func__", None) is BaseTrainer.optimizer_step
        return stock and self.trainer.device.type != "npu" and _fingerprint(BaseTrainer.optimizer_step) in _KNOWN_STEPS

    def replace_step(self, step: Callable[[], None]) -> None:
        """Let the trainer call ``step`` instead of its own ``optimizer_step``."""
        self._replace("optimizer_step", step)

    def own_step(self) -> None:
        """Take the step that the trainer would take by itself."""
        self._own["optimizer_step"][0]()

    def watch_batches(self, before: Callable[[Any], None], after: Callable[[Any], None]) -> None:
        """Call ``before`` and ``after`` with every batch that is trained on, around its preprocessing."""
        preprocess = self.trainer.preprocess_batch

        def preprocess_batch(batch: Any) -> Any:
            self._trained_in = precision_now(self.trainer.device.type)
            if self._precision is not None:
                set_precision(self.trainer.device.type, self._precision)
            before(batch)
            batch = preprocess(batch)
            after(batch)
            return batch

        self._replace("preprocess_batch", preprocess_batch)

    def watch_validation(self, told: Callable[[], None], rescue: Callable[[], Callable[[bool], None] | None]) -> None:
        """Validate in fp32 from the first time on that fp16 overflows, and with trusted weights where that is NaN."""
        self._replace("validate", SafeValidation(self.trainer, self.trainer.validate, self.largest, told, rescue))

    def release(self) -> None:
        """Give the trainer its own methods back, where nobody has put another in the place of ours since."""
        for name, (own, ours) in self._own.items():
            if vars(self.trainer).get(name) is ours:
                del vars(self.trainer)[name]
                if getattr(self.trainer, name) != own:  # it was an attribute of the instance before, too
                    setattr(self.trainer, name, own)
        self._own.clear()

    def _replace(self, name: str, ours: Callable[..., Any]) -> None:
        self._own[name] = (getattr(self.trainer, name), ours)
        setattr(self.trainer, name, ours)

    # Precision and trials -------------------------------------------------------------------------------------------

    @property
    def forward_precision(self) -> str:
        """Precision of the newest forward pass: ``fp32``, ``fp16`` or ``bf16``."""
        return self._precision or self._trained_in

    def precisions(self) -> list[str]:
        """Return the precisions that this training may be raised to, its own first."""
        own, device = self._trained_in, self.trainer.device.type
        bf16 = ["bf16"] if own == "fp16" and (device != "cuda" or torch.cuda.is_bf16_supported()) else []
        return [own, *bf16, "fp32"] if own != "fp32" else [own]

    def set_precision(self, precision: str) -> None:
        """Train in this precision from the next batch on."""
        self._precision = None if precision == self._trained_in else precision

    # A batch once more ----------------------------------------------------------------------------------------------

    def replay(self, amp_scale: float = 1.0) -> Replay:
        """Return what runs batches through the live model once more, without a trace.

        Args:
            amp_scale: Loss scale of the step that is to be repeated.
        """
        args = self.trainer.args
        names = self.trainer.loss_names
        return Replay(
            self.model,
            precision=self.forward_precision,
            names=(names,) if isinstance(names, str) else tuple(names),
            amp_scale=amp_scale,
            compiled=bool(getattr(args, "compile", False)),
        )

    def composed(self) -> tuple[str, ...]:
        """Return what the loader may compose images with now, such as ``mosaic``."""
        return composed(self.trainer)

    def plain_batch(self, image: str) -> dict[str, Any] | None:
        """Return one image with its labels as a batch of its own, without augmentation; None if it is not known."""
        return plain_batch(self.trainer, image)

    # Ranks ----------------------------------------------------------------------------------------------------------

    def largest(self, values: Sequence[float]) -> list[float]:
        """Return the largest of each value over the ranks: one small all-reduce under DDP, nothing otherwise.

        Args:
            values: Finite numbers; flags as 0 and 1.
        """
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return list(values)
        reduced = torch.tensor(values, dtype=torch.float32, device=self.trainer.device)
        dist.all_reduce(reduced, op=dist.ReduceOp.MAX)
        return [float(value) for value in reduced.tolist()]


def _fingerprint(function: Callable[..., Any]) -> str:
    """Hash a method's body without its docstring and its layout; empty where there is no source."""
    try:
        node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError):
        return ""
    if not isinstance(node, ast.FunctionDef):
        return ""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return hashlib.sha256("\n".join(map(ast.unparse, body)).encode()).hexdigest()[:16]
