"""A trainer in its run.

Nothing of the trainer that it may replace during a run (optimizer, scaler, EMA, loaders) is kept here: each is looked
up when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from ultralytics.engine.trainer import BaseTrainer

from yolo_gradsafe.adapter.autocast import precision_now, precisions_of, set_precision
from yolo_gradsafe.adapter.compatibility import KNOWN_STEPS, UnsupportedTrainer, ask, examine, fingerprint
from yolo_gradsafe.adapter.device_memory import DeviceMemory
from yolo_gradsafe.adapter.display import TrainerDisplay
from yolo_gradsafe.adapter.ranks import Ranks
from yolo_gradsafe.adapter.replay import Replay, composed, other_images, plain_batch
from yolo_gradsafe.adapter.state import TrainingState
from yolo_gradsafe.adapter.stepping import Stepping
from yolo_gradsafe.adapter.trainer_info import TrainerInfo
from yolo_gradsafe.adapter.validation import SafeValidation

__all__ = ["TrainerAdapter"]


Rescue = Callable[[list[str]], Callable[[bool], bool] | None]
"""Puts trusted weights in place; see ``SafeValidation``."""


class TrainerAdapter(TrainerInfo, Stepping, TrainerDisplay):
    """A trainer.

    Args:
        trainer: A ``BaseTrainer`` at or after ``on_pretrain_routine_end``, when all that is asked for below exists.

    Raises:
        UnsupportedTrainer: It is so unlike the trainers that are known here that it cannot even be observed.
    """

    def __init__(self, trainer: Any) -> None:
        shape = examine(trainer)
        if shape.missing:
            raise UnsupportedTrainer("; ".join(shape.missing))
        self.trainer = trainer
        self.incompatibilities = shape.incompatibilities
        """What of the trainer is not as it is relied upon, in words; nothing may be done to it then."""
        self._one = torch.ones((), device=trainer.device)
        self._own: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}
        self.state = TrainingState(trainer)
        """Weights, buffers, EMA and optimizer state by name."""
        self.state.note_unbounded()
        self.ranks = Ranks(trainer.device)
        """The processes that train together."""
        self.memory = DeviceMemory(trainer.device)
        """What is left on the training's device."""
        self._trained_in = "fp32"
        self._precision: str | None = None

    def guarded_buffers(self) -> list[tuple[str, Tensor]]:
        """Return the buffers that a forward pass may change and that have to stay finite: not a mask of -inf."""
        return [(name, buffer) for name, buffer in self.named_buffers() if name not in self.state.unbounded]

    # The trainer's own methods ------------------------------------------------------------------------------------

    @property
    def step_is_stock(self) -> bool:
        """Whether the trainer's step is a body of Ultralytics that ``step.py`` can stand in for.

        It is not for a subclass or an instance with an ``optimizer_step`` of its own, for a version that is not shaped
        as the known ones, and on an NPU.
        """
        step = self._own["optimizer_step"][0] if "optimizer_step" in self._own else self.trainer.optimizer_step
        stock = getattr(step, "__func__", None) is BaseTrainer.optimizer_step
        known = not self.incompatibilities and fingerprint(BaseTrainer.optimizer_step) in KNOWN_STEPS
        return stock and known and self.trainer.device.type != "npu"

    def replace_step(self, step: Callable[[], None]) -> None:
        """Let the trainer call ``step`` instead of its own ``optimizer_step``."""
        self._replace("optimizer_step", step)

    def call_own_step(self) -> None:
        """Take the step that the trainer would take by itself."""
        self._own["optimizer_step"][0]()

    def watch_batches(self, before: Callable[[Any], None], after: Callable[[Any], None]) -> None:
        """Call ``before`` and ``after`` with every batch that is trained on, around its preprocessing.

        By ``before`` it is known what the batch is trained in by itself, and another precision can still be set.
        """
        preprocess = getattr(self.trainer, "preprocess_batch", None)
        if preprocess is None:
            return

        def preprocess_batch(batch: Any) -> Any:
            self._trained_in = precision_now(self.trainer.device.type)
            before(batch)
            if self._precision is not None:
                set_precision(self.trainer.device.type, self._precision)
            batch = preprocess(batch)
            after(batch)
            return batch

        self._replace("preprocess_batch", preprocess_batch)

    def watch_validation(self, told: Callable[[], None], rescue: Rescue) -> None:
        """Validate in fp32 from the first time on that fp16 overflows, and with trusted weights where that is NaN."""
        self._replace(
            "validate", SafeValidation(self.trainer, self.trainer.validate, self.ranks.all_reduce_max, told, rescue)
        )

    def watch_records(self, columns: Callable[[], dict[str, float]]) -> None:
        """Add ``columns`` to every row of ``results.csv``.

        They are not put beside the learning rates, from where they would get into the row, too: ClearML draws those in
        one chart, in which norms would hide the rates, and some loggers would get a number twice.
        """
        save = getattr(self.trainer, "save_metrics", None)
        if save is not None:
            self._replace("save_metrics", lambda metrics: save(metrics={**metrics, **columns()}))

    def release(self) -> None:
        """Give the trainer its own methods back, where nobody has put another in the place of ours since."""
        for name, (own, ours) in self._own.items():
            if vars(self.trainer).get(name) is ours:
                del vars(self.trainer)[name]
                if getattr(self.trainer, name) != own:  # it was an attribute of the instance before, too
                    setattr(self.trainer, name, own)
        self._own.clear()
        self.hide_metrics()

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
        return precisions_of(self.trainer.device.type, self._trained_in)

    def set_precision(self, precision: str) -> None:
        """Train in this precision from the next batch on, or this one where it is not preprocessed yet."""
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
            images=self.batch_size // max(1, int(ask(self.trainer, "world_size") or 1)),
            memory=self.memory,
            unbounded=self.state.unbounded,
            outside=self.outside_parameters(),
        )

    def composed(self) -> tuple[str, ...]:
        """Return what the loader may compose images with now, such as ``mosaic``."""
        return composed(self.trainer)

    def plain_batch(self, image: str) -> dict[str, Any] | None:
        """Return one image with its labels as a batch of its own, without augmentation; None if it is not known."""
        return plain_batch(self.trainer, [image])

    def other_batch(self, excluded: Sequence[str], count: int = 4) -> dict[str, Any] | None:
        """Return a few images that are not among some as a batch, without augmentation; None without any."""
        return plain_batch(self.trainer, other_images(self.trainer, excluded, count))

    def preprocess(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Preprocess a batch as the trainer's class does; what was put on the instance may count, and is passed by."""
        return dict(type(self.trainer).preprocess_batch(self.trainer, batch))

    def preprocess_hook(self) -> tuple[str, int, str] | None:
        """Return file, line and name of a function that somebody has put in ``preprocess_batch``'s place.

        Returns:
            None where the trainer's own method is at work.
        """
        hook = vars(self.trainer).get("preprocess_batch")
        own, ours = self._own.get("preprocess_batch", (None, None))
        function = own if hook is ours else hook
        if getattr(function, "__self__", None) is self.trainer:
            return None
        code = getattr(function, "__code__", None)
        return None if code is None else (code.co_filename, code.co_firstlineno, code.co_name)

    # Ranks ----------------------------------------------------------------------------------------------------------

    def broadcast_state(self, cost: float = 0.0) -> None:
        """Give every rank the weights, averages, optimizer state and loss scale of one of them; collective.

        Batch-norm statistics stay each rank's own, as Ultralytics has it.

        Args:
            cost: How little those of this rank are worth; the rank of the lowest cost is taken.
        """
        if not self.ranks.several:
            return
        updates = torch.tensor(float(self.state.extra()["ema_updates"]), dtype=torch.float64)
        self.ranks.broadcast_tensors({**self.state.weights(), "updates": updates}, cost)
        self.state.set_extra({"ema_updates": int(updates)})
        if not self.ranks.broadcast_tensors({**self.state.optimizer(), **self._scaler_tensors()}, cost):
            self.state.reset_moments()  # one rank has stepped and another has not: they start anew together

    def _scaler_tensors(self) -> dict[str, Tensor]:
        names = ("_scale", "_growth_tracker")
        held = {name: getattr(self.trainer.scaler, name, None) for name in names}
        return {name: value for name, value in held.items() if isinstance(value, Tensor)}
