"""A trainer of Ultralytics with a model of some twenty numbers: its own class, step, EMA and events, and no data set.

``Tiny`` is a ``BaseTrainer`` that is set up by hand, so that the plugin's real adapter and its whole core run on it, a
step in a millisecond. What a test needs of the core it takes from ``Core``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils.callbacks.base import get_default_callbacks
from ultralytics.utils.torch_utils import EarlyStopping, ModelEMA

from tests.arm import records, rows
from yolo_gradsafe import GradSafe, adapter
from yolo_gradsafe.adapter.ranks import RankFailed
from yolo_gradsafe.session import Session
from yolo_gradsafe.telemetry.schema import Incident, Kind, Place, Remedy

IMAGES = 4
"""Images of a batch."""


class TinyModel(nn.Module):
    """A convolution, a batch norm, a head; called with a batch it returns losses and items, as Ultralytics' models."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.norm = nn.BatchNorm2d(2, momentum=0.03)  # as Ultralytics has it
        self.head = nn.Linear(2, 1)

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, times the images, and its items."""
        features = self.norm(self.conv(batch["img"])).relu().mean(dim=(2, 3))
        error = self.head(features)[:, 0] - batch["target"]
        losses = torch.stack([error.square().mean(), error.abs().mean()])
        return losses * len(error), dict(zip(("box_loss", "cls_loss"), losses.detach(), strict=True))


class Tiny(BaseTrainer):
    """A trainer at the end of its set-up.

    Args:
        folder: The run's folder.
        optimizer: A class of ``torch.optim``.
        scaler: Initial loss scale of a GradScaler; None is without one.
        lr: Learning rate.
        model: Class of the model.
    """

    def __init__(
        self,
        folder: Path,
        optimizer: type[Any] = torch.optim.SGD,
        scaler: float | None = None,
        lr: float = 0.01,
        model: Callable[[], nn.Module] = TinyModel,
    ) -> None:
        torch.manual_seed(0)
        self.args = get_cfg(overrides={"task": "detect", "model": "tiny", "amp": False, "imgsz": 32, "plots": False})
        self.device, self.save_dir, self.csv = torch.device("cpu"), folder, folder / "results.csv"
        self.epochs, self.epoch, self.start_epoch, self.batch_size = 3, 0, 0, IMAGES
        self.model = model().train()
        more = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
        self.optimizer = optimizer(self.model.parameters(), lr=lr, **more)
        self.scaler = torch.amp.GradScaler("cpu", enabled=scaler is not None, init_scale=scaler or 1.0)
        self.ema = ModelEMA(self.model)
        self.amp, self.resume, self.stop, self.world_size = False, False, False, 1
        self.data, self.metrics, self.lr, self.loss_items = {"names": {0: "thing"}}, {}, {}, {}
        self.loss_names, self.nan_recovery_attempts = ("box_loss", "cls_loss"), 0
        self.loss = self.tloss = self.train_loader = None
        self.validator = lambda trainer: {"val/loss": float(_probe(trainer.ema.ema)), "fitness": 0.5}
        self.plots: dict[Any, Any] = {}
        self.stopper = EarlyStopping()
        self.callbacks = get_default_callbacks()

    def begin_epoch(self) -> None:
        """Come to the start of an epoch as the training loop does."""
        self.run_callbacks("on_train_epoch_start")
        self.tloss = None

    def backward(self, batch: dict[str, Any]) -> None:
        """Take a batch as far as its gradients, as the training loop does."""
        self.run_callbacks("on_train_batch_start")
        with torch.autocast("cpu", enabled=False):
            loss, self.loss_items = self.model(self.preprocess_batch(batch))
        self.loss = loss.sum()
        self.tloss = dict(self.loss_items)
        self.scaler.scale(self.loss).backward()

    def take(self, *batches: dict[str, Any]) -> None:
        """Train on batches whose gradients are summed up to one step."""
        for number, batch in enumerate(batches, 1):
            self.backward(batch)
            if number == len(batches):
                self.optimizer_step()
            self.run_callbacks("on_train_batch_end")

    def state(self) -> dict[str, Tensor]:
        """Return a copy of weights, buffers, EMA, optimizer state and counts, by name."""
        live = adapter.TrainerAdapter(self).state
        more = {"ema updates": torch.tensor(self.ema.updates), "scale": torch.tensor(self.scaler.get_scale())}
        return {name: tensor.detach().clone() for name, tensor in {**live.tensors(), **more}.items()}


def _probe(model: nn.Module) -> Tensor:
    """Return the loss of a model on one batch, in evaluation."""
    with torch.no_grad():
        return model(batch_of(0))[0].sum()


def batch_of(seed: int, spread: float = 1.0) -> dict[str, Any]:
    """Return a batch of four images of four pixels, drawn by its number."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(IMAGES, 3, 2, 2, generator=draw) * spread
    return {"img": images, "target": images.mean(dim=(1, 2, 3)), "im_file": [f"{seed}-{i}.jpg" for i in range(IMAGES)]}


def nan_batch(seed: int = 0) -> dict[str, Any]:
    """Return a batch with a pixel that is NaN."""
    batch = batch_of(seed)
    batch["img"][1, 0, 0, 0] = torch.nan
    return batch


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    """Return the names under which two states are not the same, bit for bit."""
    same = {name for name in one.keys() & other.keys() if torch.equal(one[name], other[name])}
    return (one.keys() | other.keys()) - same


class TwoRanks:
    """Stands in for the ranks of a training: this one, and another of which only what it says is known.

    Args:
        says: What the other says at each reduction that asks for a number, in order; 0 for all else.
    """

    several = True

    def __init__(self, *says: list[float]) -> None:
        self.says = list(says)
        self.heard: list[list[float]] = []
        self.objects: list[Any] = []
        """What the other gathers, at each gathering, in order."""
        self.rank_0: Any = None
        """What is broadcast, if the other is rank 0."""
        self.failed = False

    def all_reduce_max(self, values: Any) -> list[float]:
        if self.failed:
            raise RankFailed("another rank failed")
        mine = [float(value) for value in values]
        if not mine:
            return []
        self.heard.append(mine)
        other = self.says.pop(0) if self.says else [-float("inf")] * len(mine)
        return [max(pair) for pair in zip(mine, other, strict=True)]

    def all_reduce_min(self, value: float) -> float:
        return -self.all_reduce_max([-value])[0]

    def collective(self, closing: bool = True) -> Any:
        return adapter.ranks.Ranks.collective(self, closing)

    def _exchange(self, values: Any, failed: bool) -> list[float]:
        return list(values)

    def gather_objects(self, value: Any) -> list[Any]:
        return [value, json.loads(json.dumps(self.objects.pop(0) if self.objects else value))]

    def broadcast_object(self, value: Any) -> Any:
        return json.loads(json.dumps(value if self.rank_0 is None else self.rank_0))

    def broadcast_tensors(self, tensors: Any, cost: float = 0.0) -> bool:
        return True


class Core:
    """A guarded ``Tiny`` and the parts of its session.

    Args:
        folder: The run's folder.
        trainer: The trainer; a new one without.
        clip: Options of ``clip``.
        **recovery: Options of ``recovery``.
    """

    def __init__(
        self, folder: Path, trainer: Tiny | None = None, clip: dict[str, Any] | None = None, **recovery: Any
    ) -> None:
        self.raw = trainer or Tiny(folder)
        off = {"check_data": False, "pictures": 0, "archive": False}
        recovery = {"trust_steps": 2, "snapshot_share": 1.0, **recovery}
        self.guard = GradSafe(clip=clip or {}, recovery=recovery, forensics=off)
        self.guard.attach(self.raw)
        session = self.guard._session(self.raw)
        assert session is not None
        self.session: Session = session
        self.step, self.trainer, self.registry = session.step, session.trainer, session.registry
        self.recovery, self.sync, self.log = self.step.recovery, self.step.sync, session.log.incidents
        self.rollback, self.history = self.recovery.rollback, self.step.history
        self.raw.begin_epoch()
        if self.rollback._buffer is not None:  # snapshots by the count of steps alone, and not by the clock
            self.rollback._buffer._set_interval = lambda: None
        self._told = 0

    def train(self, count: int = 1, start: int = 0) -> None:
        """Take so many healthy steps."""
        for seed in range(start, start + count):
            self.raw.take(batch_of(seed))

    def among(self, ranks: TwoRanks) -> TwoRanks:
        """Let the trainer be one of two ranks."""
        self.trainer.ranks = self.sync.ranks = ranks
        return ranks

    def incidents(self) -> list[Incident]:
        """Return what was recorded since the last time."""
        self.log.flush()
        lines = records(self.session._recorder.paths.incidents)
        new, self._told = lines[self._told :], len(lines)
        assert not self.session.boundary.faults
        return [_incident(line) for line in new]

    def rows(self) -> list[dict[str, str]]:
        """Return the optimizer steps as they were recorded."""
        self.session._recorder.flush()
        return rows(self.session._recorder.paths.steps)

    def kinds(self) -> list[str]:
        """Return the kinds of what was recorded since the last time."""
        return [str(incident.kind) for incident in self.incidents()]


def _incident(line: dict[str, Any]) -> Incident:
    remedies = tuple(map(Remedy, line["remedies"]))
    return Incident(**{**line, "kind": Kind(line["kind"]), "place": Place(line["place"]), "remedies": remedies})
