"""A trainer in its run.

Nothing of the trainer that it may replace during a run (optimizer, scaler, EMA, loaders) is kept here: each is looked
up when it is needed.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils import RANK
from ultralytics.utils.torch_utils import unwrap_model

from yolo_gradsafe.port.precision import precision_now, set_precision
from yolo_gradsafe.port.replay import Replay, composed, plain_batch
from yolo_gradsafe.port.state import TrainingState
from yolo_gradsafe.port.validation import SafeValidation
from yolo_gradsafe.stages import Layout, place

__all__ = ["Host"]

_KNOWN_STEPS = {
    "1f8cd1a26f5efdb9",  # up to 8.4.110
    "e1f8510bf8f2aa89",  # from 8.4.111: an NPU branch
}
"""Fingerprints of the ``BaseTrainer.optimizer_step`` bodies that ``step.py`` can stand in for."""


class Host:
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

    # What is trained ------------------------------------------------------------------------------------------------

    @property
    def model(self) -> nn.Module:
        """The model without its DDP and compile wrappers."""
        model: nn.Module = unwrap_model(self.trainer.model)
        return model

    def stages(self) -> dict[str, str]:
        """Return the stage of every parameter by its name."""
        layout = self.layout
        return {name: place(name, layout).stage for name, _ in self.named_parameters()}

    @property
    def layout(self) -> Layout:
        """How the model is put together, from its own YAML."""
        model = self.model
        config = getattr(model, "yaml", None) or {}
        layers = getattr(model, "model", ())
        return Layout(
            len(config.get("backbone", ())), len(layers) if isinstance(layers, nn.Sequential) else 0, self.task
        )

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters in the order in which stock's clip sees them."""
        return list(self.model.named_parameters())

    def batchnorm_buffers(self) -> list[Tensor]:
        """Return the buffers that a forward pass may change (batch-norm statistics and counters)."""
        return [buffer for buffer in self.model.buffers() if buffer.numel()]

    @property
    def task(self) -> str:
        """Task as Ultralytics names it."""
        return str(self.trainer.args.task)

    @property
    def model_name(self) -> str:
        """Model as the user named it."""
        return str(self.trainer.args.model)

    # Where it stands ------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Epoch, from 1."""
        return int(self.trainer.epoch) + 1

    @property
    def epochs(self) -> int:
        """Epochs planned."""
        return int(self.trainer.epochs)

    @property
    def run(self) -> Path:
        """The run's folder."""
        return Path(self.trainer.save_dir)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files: a lone one, or rank 0."""
        return RANK in {-1, 0}

    @property
    def rank(self) -> int:
        """Rank of this process; -1 for a lone one."""
        return int(RANK)

    @property
    def resumed(self) -> bool:
        """Whether the run goes on from a checkpoint."""
        return bool(self.trainer.resume)

    @property
    def plots(self) -> bool:
        """Whether the user wants plots."""
        return bool(self.trainer.args.plots)

    @property
    def batch_size(self) -> int:
        """Images a batch, over all ranks."""
        return int(self.trainer.batch_size)

    @property
    def device(self) -> str:
        """Device of the training."""
        return str(self.trainer.device)

    @property
    def optimizer_name(self) -> str:
        """Class of the optimizer."""
        return type(self.trainer.optimizer).__name__

    @property
    def has_muon(self) -> bool:
        """Whether the optimizer orthogonalises some updates (MuSGD), so that their size is the learning rate's."""
        return any(group.get("use_muon") for group in self.trainer.optimizer.param_groups)

    @property
    def lr(self) -> float:
        """Learning rate of the first parameter group that has parameters."""
        groups = self.trainer.optimizer.param_groups
        return float(next((g for g in groups if g["params"]), groups[0])["lr"])

    @property
    def lr_ahead(self) -> float:
        """The largest learning rate that the schedule has now or, in its warm-up, will come to."""
        groups = [g for g in self.trainer.optimizer.param_groups if g["params"]]
        return max(max(float(g["lr"]), float(g.get("initial_lr", 0.0))) for g in groups)

    @property
    def recoveries(self) -> int:
        """Times in a row that Ultralytics has redone the epoch from ``last.pt``."""
        return int(self.trainer.nan_recovery_attempts)

    # Losses ---------------------------------------------------------------------------------------------------------

    @property
    def loss(self) -> Tensor:
        """Loss of the newest batch as back-propagated, before AMP scaling: 0-d, detached."""
        loss: Tensor = self.trainer.loss.detach()
        return loss

    def set_loss(self, loss: Tensor) -> None:
        """Replace the loss that the trainer shows to its own recovery and to the loggers."""
        self.trainer.loss = loss

    def loss_items(self) -> tuple[tuple[str, ...], Tensor]:
        """Return the names and the values, a detached vector, of the newest batch's loss items.

        They are a dict from 8.4.104 on and a tensor before, with the names on the trainer.
        """
        items = self.trainer.loss_items
        if isinstance(items, dict):
            return tuple(items), torch.stack([value.detach().reshape(()).float() for value in items.values()])
        names = self.trainer.loss_names
        return (names,) if isinstance(names, str) else tuple(names), items.detach().reshape(-1).float()

    @property
    def running_loss(self) -> Any:
        """The epoch's running mean of the loss items, a dict or a tensor; None before the epoch's first batch."""
        return self.trainer.tloss

    def set_running_loss(self, value: Any) -> None:
        """Replace the running mean; None makes the next batch the first of the mean."""
        self.trainer.tloss = value

    def zero_running_loss(self) -> Any:
        """Return a running mean of zeros, in the form of this version."""
        items = self.trainer.loss_items
        if isinstance(items, dict):
            return {name: torch.zeros_like(value) for name, value in items.items()}
        return torch.zeros_like(items)

    # The optimizer step ---------------------------------------------------------------------------------------------

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

    def unscale(self) -> None:
        """Divide the gradients by the AMP scale; nothing without a GradScaler. Does not synchronise."""
        self.trainer.scaler.unscale_(self.trainer.optimizer)

    def apply(self, finite: bool | None = None, lr_factor: float = 1.0, scale: float | None = None) -> None:
        """Finish the step as stock does: step, update the scale, zero the gradients, update the EMA.

        Args:
            finite: Whether the unscaled gradients are finite, if the caller knows. ``GradScaler.step`` would read just
                that from the device, unless the optimizer is fused and takes it there: the read is saved.
            lr_factor: What the learning rate is multiplied with for this step.
            scale: AMP scale to go on with; None leaves it to GradScaler.
        """
        trainer = self.trainer
        fused = getattr(trainer.optimizer, "_step_supports_amp_scaling", False)
        with self.lr_times(lr_factor):
            if finite is None or fused or not trainer.scaler.is_enabled():
                trainer.scaler.step(trainer.optimizer)
            elif finite:
                trainer.optimizer.step()
        trainer.scaler.update(scale)
        trainer.optimizer.zero_grad()
        if trainer.ema:
            trainer.ema.update(trainer.model)

    @contextmanager
    def lr_times(self, factor: float) -> Iterator[None]:
        """Multiply the learning rate of every group for the length of the body."""
        groups = self.trainer.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group in groups if factor != 1.0 else ():
            group["lr"] = group["lr"] * factor
        try:
            yield
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    def clip_as_stock(self) -> None:
        """Clip as stock does, for a step that the plugin could not assess."""
        torch.nn.utils.clip_grad_norm_(self.trainer.model.parameters(), max_norm=10.0)

    def drop(self, amp_scale: float) -> None:
        """Give up a step whose gradients were unscaled: neither weights nor EMA learn of it.

        Args:
            amp_scale: AMP scale to go on with.
        """
        self.trainer.scaler.update(amp_scale)
        self.trainer.optimizer.zero_grad()

    def zero_grad(self) -> None:
        """Drop the gradients that have gathered."""
        self.trainer.optimizer.zero_grad()

    def gradients(self) -> dict[nn.Parameter, Tensor]:
        """Return the gradients as they have gathered so far, by parameter."""
        return {p: p.grad for p in self.model.parameters() if p.grad is not None}

    def stop(self) -> None:
        """End the training as early stopping does, after the batch under way."""
        self.trainer.stop = True

    @property
    def scale_backoff(self) -> float:
        """What GradScaler multiplies its scale with after an overflow."""
        return float(self.trainer.scaler.get_backoff_factor()) if self.scaler_enabled else 1.0

    @property
    def scaler_enabled(self) -> bool:
        """Whether a GradScaler scales the loss."""
        return bool(self.trainer.scaler.is_enabled())

    @property
    def amp_scale(self) -> Tensor:
        """Loss scale of the GradScaler, 0-d on its device; 1 without one. Does not synchronise."""
        scaler = self.trainer.scaler
        scale = scaler._get_scale_async() if scaler.is_enabled() else None
        return self._one if scale is None else scale.detach()

    @property
    def precision(self) -> str:
        """Precision of the forward pass: ``fp32``, ``fp16`` or ``bf16``."""
        if str(self.trainer.args.amp) == "bf16":
            return "bf16"
        return "fp16" if self.scaler_enabled else "fp32"

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

    @property
    def data(self) -> dict[str, Any]:
        """The data set as Ultralytics resolved it."""
        return dict(self.trainer.data)

    @property
    def image_size(self) -> int:
        """Size that images are trained at, pixels."""
        return int(self.trainer.args.imgsz)

    @property
    def class_names(self) -> dict[int, str]:
        """Names of the classes."""
        names = self.trainer.data.get("names", {})
        return dict(names) if isinstance(names, dict) else dict(enumerate(names))

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

    # What the user and the loggers see ------------------------------------------------------------------------------

    def accepts_columns(self, names: Iterable[str]) -> bool:
        """Whether ``results.csv`` is new or has these columns; a row longer than its header breaks its readers."""
        path = Path(self.trainer.csv)
        if not path.is_file():
            return True
        with path.open(encoding="utf-8", newline="") as file:
            header = [name.strip() for name in next(csv.reader(file), [])]
        return set(names) <= set(header)

    def add_columns(self, values: dict[str, float]) -> None:
        """Add numbers to the epoch's row of ``results.csv`` and so to every logger; at ``on_train_epoch_end``."""
        self.trainer.lr.update(values)

    def show_lr_times(self, factor: float) -> None:
        """Let ``results.csv`` and the loggers show the learning rate that was used; at ``on_train_epoch_end``."""
        rates = self.trainer.lr
        rates.update({name: rate * factor for name, rate in rates.items() if name.startswith("lr/")})

    def register_plot(self, path: Path) -> None:
        """Let the loggers upload a picture."""
        self.trainer.on_plot(path)


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
