"""What is trained, and where the training stands: read from the trainer anew each time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.utils import RANK
from ultralytics.utils.torch_utils import unwrap_model

from yolo_gradsafe.adapter.compatibility import ask
from yolo_gradsafe.gradients.layer_groups import Layout, locate

__all__ = ["TEACHER", "TrainerInfo", "is_statistic", "outside_parameters"]

TEACHER = "teacher_model."
"""What the names of a distillation's teacher start with: it is frozen, evaluates only, and is in no checkpoint."""


class TrainerInfo:
    """The part of a ``TrainerAdapter`` that only looks."""

    trainer: Any

    # What is trained ------------------------------------------------------------------------------------------------

    @property
    def model(self) -> nn.Module:
        """The model without its DDP and compile wrappers."""
        model: nn.Module = unwrap_model(self.trainer.model)
        return model

    @property
    def averaged_model(self) -> nn.Module | None:
        """The EMA, which the trainer may make anew; None without one."""
        ema = ask(self.trainer, "ema")
        averaged: nn.Module | None = ema.ema if ema else None
        return averaged

    def stages(self) -> dict[str, str]:
        """Return the stage of every parameter by its name."""
        layout = self.layout
        return {name: locate(name, layout).stage for name, _ in self.named_parameters()}

    @property
    def layout(self) -> Layout:
        """How the model is put together, from its own YAML; of a distillation, how the student is."""
        model = getattr(self.model, "student_model", self.model)
        config = getattr(model, "yaml", None) or {}
        layers = getattr(model, "model", ())
        return Layout(
            len(config.get("backbone", ())), len(layers) if isinstance(layers, nn.Sequential) else 0, self.task
        )

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters in the order in which stock's clip sees them, without those of a frozen teacher."""
        return [(name, p) for name, p in self.model.named_parameters() if not name.startswith(TEACHER)]

    def outside_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters that the optimizer holds and the model does not, such as learnable weights of the loss.

        Stock's clip passes them by. They are named by their place in the optimizer.
        """
        return outside_parameters(self.model, self.trainer.optimizer)

    def named_buffers(self) -> list[tuple[str, Tensor]]:
        """Return the buffers, which a forward pass may change, without those of a frozen teacher."""
        named = self.model.named_buffers()
        return [(name, buffer) for name, buffer in named if buffer.numel() and not name.startswith(TEACHER)]

    @property
    def pretrained(self) -> bool:
        """Whether the weights have been trained, as most batch-norm layers tell by a mean that is not 0. Synchronises.

        That holds for weights from a checkpoint, from ``load()`` and from the user's own code alike. The counts of
        batches do not tell: Ultralytics saves its EMA, where they stay 0.
        """
        means = [buffer for name, buffer in self.named_buffers() if name.endswith("running_mean")]
        return bool(means) and float(torch.stack([mean.any() for mean in means]).float().mean()) > 0.5

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
        return bool(ask(self.trainer, "resume"))

    @property
    def epochs_done(self) -> int:
        """Epochs that the checkpoint of a resumed run has behind it."""
        return int(ask(self.trainer, "start_epoch"))

    @property
    def plots(self) -> bool:
        """Whether the user wants plots."""
        return bool(self.trainer.args.plots)

    @property
    def batch_size(self) -> int:
        """Images a batch, over all ranks."""
        return int(ask(self.trainer, "batch_size"))

    @property
    def batches(self) -> int:
        """Batches an epoch, on this rank; 0 when unknown."""
        return len(ask(self.trainer, "train_loader") or ())

    @property
    def planned_steps(self) -> int:
        """Optimizer steps of the training that was asked for, without those that warm-up adds; 0 when unknown."""
        return self.epochs * self.batches // max(1, int(getattr(self.trainer, "accumulate", 1)))

    @property
    def warmup_batches(self) -> int:
        """Batches over which the learning rate warms up."""
        own = getattr(self.trainer, "_get_warmup_iterations", None)  # newer versions: it leaves out the last epoch
        if own is not None:
            return max(0, int(own(self.batches)))
        epochs = float(getattr(self.trainer.args, "warmup_epochs", 0) or 0)
        return max(round(epochs * self.batches), 100) if epochs > 0 else 0

    @property
    def objects(self) -> int:
        """Labelled objects of the training set; -1 when unknown."""
        return _objects(ask(self.trainer, "train_loader"))

    @property
    def validation_objects(self) -> int:
        """Labelled objects of the validation set; -1 when unknown."""
        return _objects(getattr(self.trainer, "test_loader", None))

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

    def lr_share_and_peak(self) -> tuple[float, float]:
        """Return where the learning rate of the weight matrices stands in its schedule.

        Returns:
            The rate as a share of the largest that the schedule comes to, 0 to 1. Biases do not count: they have a
            warm-up of their own, which comes from above.
            That largest rate, as the user has it now; 0 where it is unknown. The schedule's own fall does not change
            it, and a callback of the user may.
        """
        rates = self._rates()
        share = max((now / max(now, peak) for now, peak in rates if max(now, peak) > 0), default=1.0)
        return share, max((peak for _, peak in rates), default=0.0)

    def _rates(self) -> list[tuple[float, float]]:
        """Return rate and peak of the weight matrices, by parameter group."""
        groups, scheduled = self.trainer.optimizer.param_groups, self._scheduled()
        peaks = [_peak(group, *scheduled.get(number, (None, None))) for number, group in enumerate(groups)]
        used = [(group, peak) for group, peak in zip(groups, peaks, strict=True) if group["params"]]
        matrices = [(group, peak) for group, peak in used if group["params"][0].ndim > 1]
        return [(float(group["lr"]), peak) for group, peak in matrices or used]

    def _scheduled(self) -> dict[int, tuple[float, float]]:
        """Return where the scheduler starts from and where it stands, by the number of the parameter group.

        Nothing in the warm-up: until that is over, Ultralytics goes by the ``initial_lr`` of the groups.
        """
        scheduler = getattr(self.trainer, "scheduler", None)
        if scheduler is None or (self.epoch - 1) * self.batches < self.warmup_batches:
            return {}
        bases, rates = getattr(scheduler, "base_lrs", ()), getattr(scheduler, "_last_lr", ())
        return dict(enumerate(zip(map(float, bases), map(float, rates), strict=False)))

    @property
    def recoveries(self) -> int:
        """Times in a row that Ultralytics has redone the epoch from ``last.pt``."""
        return int(ask(self.trainer, "nan_recovery_attempts"))

    @property
    def data(self) -> dict[str, Any]:
        """The data set as Ultralytics resolved it."""
        return dict(ask(self.trainer, "data"))

    @property
    def class_names(self) -> dict[int, str]:
        """Names of the classes."""
        names = self.data.get("names", {})
        return dict(names) if isinstance(names, dict) else dict(enumerate(names))


def _peak(group: dict[str, Any], start: float | None, planned: float | None) -> float:
    """Return the largest rate that the schedule of a parameter group comes to; 0 where it is unknown.

    Args:
        group: The group. PyTorch's one-cycle schedule rises above where it starts, and says there how far.
        start: Rate that the scheduler starts from; None where the group alone tells.
        planned: Rate that the scheduler stands at. Where the group has another, the user has set it, and it is its own
            peak.
    """
    rate = float(group["lr"])
    if planned is not None and not math.isclose(rate, planned):
        return rate
    return float(group.get("max_lr", group.get("initial_lr", 0.0) if start is None else start))


def outside_parameters(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters of an optimizer that are none of a model, by their group and place in it."""
    known = set(model.parameters())
    return [
        (f"param_groups[{number}][{place}]", parameter)
        for number, group in enumerate(optimizer.param_groups)
        for place, parameter in enumerate(group["params"])
        if parameter not in known and parameter.numel()
    ]


def is_statistic(name: str) -> bool:
    """Whether a buffer of this name is a running statistic of a batch norm."""
    return name.endswith(("running_mean", "running_var"))


def _objects(loader: Any) -> int:
    """Return how many objects the labels behind a loader have; -1 where they are not Ultralytics' detection labels."""
    labels = getattr(getattr(loader, "dataset", None), "labels", None)
    if not isinstance(labels, list) or not all(isinstance(label, dict) and "cls" in label for label in labels):
        return -1
    return sum(len(label["cls"]) for label in labels)
