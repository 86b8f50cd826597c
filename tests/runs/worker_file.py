"""Starts a two-rank training the way Ultralytics does: ``python -m tests.runs.worker_file DATA OUT ROUTE``.

ROUTE is ``trainer`` (a guarded trainer class), ``callbacks`` (a guard on the trainer) or ``run`` (none here).
Ultralytics writes the file of the workers and the command; only the devices are two processes on the CPU.
"""

from __future__ import annotations

import sys

from tests.arm import BASE, DETECT
from tests.runs.ddp import CpuTrainer
from yolo_gradsafe import GradSafe


def main(data: str, out: str, route: str) -> None:
    """Start the training and wait for it."""
    guard = GradSafe(clip={"max_norm": 7.5})
    kind = guard.trainer(CpuTrainer) if route == "trainer" else CpuTrainer
    trainer = kind(overrides={**BASE, "model": DETECT, "data": data, "epochs": 1, "project": out, "exist_ok": True})
    if route == "callbacks":
        guard.attach(trainer)
    # What Model.train does between making a trainer and training it.
    trainer.model = trainer.get_model(cfg=DETECT)
    trainer.ddp, trainer.world_size = True, 2
    trainer.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
