"""Where faults are planted: a trainer that is set up, its model, one batch, and the truth that goes with a fault."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics import RTDETR, YOLO
from ultralytics.utils.torch_utils import unwrap_model

from yolo_gradsafe import adapter
from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.data import draw_detect, draw_pose
from yolo_gradsafe.forensics.case import Surroundings
from yolo_gradsafe.forensics.diagnose import diagnose
from yolo_gradsafe.forensics.diagnosis import Diagnosis
from yolo_gradsafe.forensics.slicing import images_in
from yolo_gradsafe.telemetry.schema import Cause

__all__ = [
    "DETECT",
    "OBB",
    "POSE",
    "RT_DETR",
    "SEGMENT",
    "V8",
    "Benches",
    "Fault",
    "Scene",
    "Truth",
    "data_for",
    "marked",
]

DETECT, V8, POSE = "yolo26n.yaml", "yolov8n.yaml", "yolo26n-pose.yaml"
SEGMENT, OBB, RT_DETR = "yolo26n-seg.yaml", "yolo26n-obb.yaml", "rtdetr-tiny.yaml"
SIZE = 64
IMAGES = 8
MARK = "# bad"

_RT_DETR = """
nc: 3
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
head:
  - [-1, 1, AIFI, [128, 4]]
  - [[2, 3, 4], 1, RTDETRDecoder, [nc, 64, 20, 4, 4, 2]]
"""
"""An RT-DETR small enough for two cores."""


@dataclass(frozen=True)
class Truth:
    """What is so, because it was planted; empty where there is nothing to name."""

    cause: Cause
    images: tuple[int, ...] = ()
    """Places in the batch, from 0."""
    layer: str = ""
    term: str = ""
    line: str = ""
    """Text of the line."""
    precision: str = "fp32"
    stage: str = ""
    """What made values NaN that were fine in the file."""


@dataclass
class Scene:
    """What a fault may change as it likes: its model and its tensors are copies."""

    trainer: Any
    model: Any
    loaded: dict[str, Any]
    """The batch as the loader handed it out."""
    batch: dict[str, Any]
    """The batch after ``preprocess_batch``."""
    usual_loss: float
    elevated: bool = False
    trusted: dict[str, Tensor] = field(default_factory=dict)
    """State of the model when it was good; empty takes the one that the fault leaves."""

    def trust(self) -> None:
        """Take the model as it is now for good."""
        self.trusted = {name: value.clone() for name, value in self.model.state_dict().items()}

    def load_again(self) -> None:
        """Preprocess what was loaded once more, as the trainer does it now."""
        self.batch = self.trainer.preprocess_batch(dict(self.loaded))

    @contextmanager
    def _as_trusted(self) -> Iterator[None]:
        live = self.model.state_dict()
        kept = {name: value.clone() for name, value in live.items()}
        try:
            self._put(live, self.trusted or kept)
            yield
        finally:
            self._put(live, kept)

    def _put(self, live: dict[str, Tensor], values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in live.items():
                tensor.copy_(values[name])

    def diagnosis(self, precision: str = "fp32", amp_scale: float = 1.0) -> Diagnosis:
        """Let GradSafe look into the batch as it does in a training."""
        live = TrainerAdapter(self.trainer)
        live.set_precision(precision)
        replay = live.replay(amp_scale)
        try:
            gradients_bad = replay.run(self.batch).loss_finite
        except (ValueError, IndexError, RuntimeError):
            gradients_bad = False
        around = Surroundings(
            loaded=self.loaded,
            preprocess=live.preprocess,
            composite=live.composed(),
            plain=live.plain_batch,
            others=lambda: live.other_batch(self.batch["im_file"]),
            trusted=self._as_trusted,
            usual_loss=self.usual_loss,
            elevated=self.elevated,
        )
        return diagnose(replay, self.batch, gradients_bad=gradients_bad, around=around)


@dataclass(frozen=True)
class Fault:
    """A fault and its truth."""

    name: str
    plant: Callable[[Scene], None]
    truth: Truth
    model: str = DETECT
    precision: str = "fp32"
    """Precision of the training."""
    amp_scale: float = 1.0


class Benches:
    """Set-up trainers by model; each is made once, in seconds.

    Args:
        folder: Where to write data sets and runs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Scene] = {}

    def scene(self, model: str) -> Scene:
        """Return a fresh scene, in which nothing is planted."""
        if model not in self._made:
            self._made[model] = _set_up(model, self._folder)
        made = self._made[model]
        trainer, network = copy.copy(made.trainer), copy.deepcopy(made.model)
        trainer.model = network
        return Scene(trainer, network, _copied(made.loaded), _copied(made.batch), made.usual_loss)


def marked(*places: Any) -> str:
    """Return the text of the line that ends with the mark, in functions or classes."""
    for place in places:
        for line in inspect.getsourcelines(place)[0]:
            if line.rstrip().endswith(MARK):
                return line.strip()
    raise LookupError("no line is marked")


def data_for(model: str, folder: Path, train: int = 16) -> Path:
    """Draw a data set for a model's task and return its ``data.yaml``."""
    kind = "pose" if "pose" in model else "polygons" if any(t in model for t in ("seg", "obb")) else "detect"
    data = (draw_pose if kind == "pose" else draw_detect)(folder / "data" / kind, train=train, val=4, size=SIZE)
    if kind == "polygons":
        for file in (data.parent / "labels").rglob("*.txt"):
            file.write_text("".join(map(_polygon, file.read_text().splitlines())))
    return data


def _polygon(row: str) -> str:
    """Return a label row with the corners of its box; one that has corners stays."""
    kind, *values = row.split()
    if len(values) != 4:
        return row + "\n"
    x, y, w, h = map(float, values)
    corners = [(x - w / 2, y - h / 2), (x + w / 2, y - h / 2), (x + w / 2, y + h / 2), (x - w / 2, y + h / 2)]
    return " ".join([kind, *(f"{v:.6f}" for corner in corners for v in corner)]) + "\n"


def _set_up(model: str, folder: Path) -> Scene:
    random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = data_for(model, folder)
    name = model
    if model == RT_DETR:
        (folder / model).write_text(_RT_DETR)
        name = str(folder / model)
    owner: Any = (RTDETR if model == RT_DETR else YOLO)(name)
    overrides = {
        **owner.overrides, "model": name, "task": owner.task, "data": str(data), "imgsz": SIZE, "batch": IMAGES,
        "device": "cpu", "workers": 0, "epochs": 3, "plots": False, "amp": False, "project": str(folder / "runs"),
        "name": Path(model).stem, "exist_ok": True, "verbose": False, "val": False, "seed": 0, "mosaic": 0.0,
        "optimizer": "SGD", "mode": "train",
    }  # fmt: skip
    with adapter.without_integrations():
        trainer = owner._smart_load("trainer")(overrides=overrides, _callbacks=owner.callbacks)
        trainer._setup_train()
    live: nn.Module = unwrap_model(trainer.model)
    live.train()
    loaded = next(iter(trainer.train_loader))
    batch = trainer.preprocess_batch(_copied(loaded))
    total = float(live(dict(batch))[0].sum().detach())
    return Scene(trainer, live, loaded, batch, total / images_in(batch))


def _copied(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in batch.items()}
