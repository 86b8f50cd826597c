"""A script of one's own under torchrun, guarded on every rank: ``torchrun --nproc_per_node 2 examples/torchrun.py``.

On GPUs all that is needed is the end: ``YOLO(...).train(..., device=[0, 1], callbacks=guard)``, without the trainer
below. Ultralytics itself wants an accelerator on every rank; the few lines of ``CpuTrainer`` let two processes of a CPU
stand in for two GPUs.
"""

import os
from pathlib import Path
from unittest import mock

import torch.distributed as dist
from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer

from yolo_gradsafe import YOLO, GradSafe
from yolo_gradsafe.data import draw_detect


class CpuDdp(nn.parallel.DistributedDataParallel):
    """DDP without device ids, which modules on a CPU must not get."""

    def __init__(self, module, device_ids=None, **kwargs):
        super().__init__(module, **kwargs)


def reduce_to_mean(tensor, dst=0, op=None, reduce=dist.reduce):
    """Average a tensor on one rank; gloo can only add."""
    reduce(tensor, dst=dst)
    tensor /= dist.get_world_size()


class CpuTrainer(DetectionTrainer):
    """On GPUs none of this is needed."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.world_size = dist.get_world_size()

    def _setup_ddp(self):
        """Leave out the GPUs; the process group is there."""

    def _setup_train(self):
        with mock.patch.object(nn.parallel, "DistributedDataParallel", CpuDdp):
            super()._setup_train()

    def validate(self):
        """Validate with gloo's way to an average."""
        with mock.patch.object(dist, "reduce", reduce_to_mean):
            return super().validate()

    def final_eval(self):
        """Leave out the last validation, which loads the model onto an accelerator on every rank."""


dist.init_process_group("gloo")  # on GPUs Ultralytics does this
folder = Path("runs/examples/data/detect")
if dist.get_rank() == 0:
    draw_detect(folder, train=32, val=8, size=64)
dist.barrier()

guard = GradSafe("detect")
settings = {"epochs": 2, "imgsz": 64, "batch": 8, "nbs": 8, "device": "cpu", "workers": 0}
YOLO("yolo26n.yaml").train(trainer=CpuTrainer, data=str(folder / "data.yaml"), **settings, callbacks=guard)

if int(os.environ["RANK"]) == 0:  # the only rank that writes files and has the summary
    print(guard.summary.headline)
dist.destroy_process_group()
