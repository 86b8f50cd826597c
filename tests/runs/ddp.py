"""Two gloo ranks on the CPU: ``torchrun --nproc_per_node 2 -m tests.runs.ddp DATA OUT RANK FAULT``.

In the second batch of RANK a pixel becomes NaN, or a statistic of its model or of its EMA (FAULT: pixel, batch-norm,
ema). Every rank writes what became of it to OUT. The trainer's few lines stand in for what Ultralytics' own distributed
set-up wants an accelerator for.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer

from tests.arm import BASE, DETECT
from yolo_gradsafe import GradSafe

_ddp, _reduce = nn.parallel.DistributedDataParallel, dist.reduce


class _CpuDdp(_ddp):
    def __init__(self, module: nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)  # modules on the CPU must not get device_ids


def _reduce_avg(tensor: torch.Tensor, dst: int = 0, op: Any = dist.ReduceOp.SUM, **kwargs: Any) -> None:
    average = op == dist.ReduceOp.AVG  # gloo has none
    _reduce(tensor, dst=dst, op=dist.ReduceOp.SUM if average else op, **kwargs)
    if average:
        tensor /= dist.get_world_size()


class CpuTrainer(DetectionTrainer):
    """A detection trainer whose ranks are processes on one CPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.world_size = int(os.environ["WORLD_SIZE"])

    def _setup_ddp(self) -> None:
        dist.init_process_group("gloo")

    def _setup_train(self) -> None:
        with mock.patch.object(nn.parallel, "DistributedDataParallel", _CpuDdp):
            super()._setup_train()

    def validate(self) -> Any:
        """Validate; gloo has no average."""
        with mock.patch.object(dist, "reduce", _reduce_avg):
            return super().validate()

    def final_eval(self) -> None:
        """Leave out what wants an accelerator on every rank."""


def main(data: str, out: str, bad_rank: int, fault: str) -> None:
    """Train on this rank."""
    rank, batches, fired, verdicts = int(os.environ["RANK"]), [0], [], []
    torch.set_num_threads(1)
    trainer = CpuTrainer(
        overrides={**BASE, "model": DETECT, "data": data, "epochs": 2, "project": out, "exist_ok": True, "nbs": 4}
    )
    GradSafe().attach(trainer)

    def strike(trainer: Any, batch: Any) -> None:
        statistics = {"batch-norm": trainer.model, "ema": trainer.ema.ema}
        if fault == "pixel":
            batch["img"][0, 0, 0, 0] = float("nan")
        else:
            next(b for n, b in statistics[fault].named_buffers() if n.endswith("running_var"))[0] = float("inf")

    def inject(trainer: Any) -> None:
        preprocess = trainer.preprocess_batch

        def preprocess_batch(batch: Any) -> Any:
            batch = preprocess(batch)
            batches[0] += 1
            if batches[0] == 2 and rank == bad_rank:
                strike(trainer, batch)
                fired.append(rank)
            return batch

        trainer.preprocess_batch = preprocess_batch
        record = trainer.optimizer_step.record
        trainer.optimizer_step.record = lambda step: (verdicts.append(str(step.verdict)), record(step))

    def finish(trainer: Any) -> None:
        model = trainer.model.module
        state = {
            "fired": fired,
            "verdicts": verdicts,
            "weights": float(sum(p.detach().double().sum() for p in model.parameters())),
            "not_finite": sum(not bool(t.isfinite().all()) for t in model.state_dict().values()),
            "ema_not_finite": sum(not bool(t.isfinite().all()) for t in trainer.ema.ema.state_dict().values()),
        }
        Path(out, f"rank{rank}.json").write_text(json.dumps(state))

    trainer.add_callback("on_train_start", inject)
    trainer.add_callback("on_fit_epoch_end", finish)
    trainer.train()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
