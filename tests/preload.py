"""What every arm needs, imported once by the process that arms are forked from."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import torch._dynamo  # which the search for a line of code loads
import torch._inductor  # which deterministic algorithms load
from ultralytics.engine import trainer
from ultralytics.models import yolo
from ultralytics.utils import SETTINGS

__all__ = ["torch", "trainer", "yolo"]

SETTINGS.update({name: False for name in ("mlflow", "wandb") if name in SETTINGS})
