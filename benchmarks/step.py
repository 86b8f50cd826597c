"""The guarded optimizer step against stock's, in turn, in one process.

    python benchmarks/step.py [--models yolo26n.yaml ...] [--optimizers SGD AdamW MuSGD] [--repeats 60]

Both steps run on the same trainer with the same gradients, everything of the guard on as it is by default (records
included). Printed are medians, and the ratio of the whole step; beside it that of the part in which they differ, the
step without the optimizer's and the EMA's own work, which is the same in both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("YOLO_OFFLINE", "true")

import torch
from ultralytics import RTDETR, YOLO
from ultralytics.engine.trainer import BaseTrainer

from yolo_gradsafe import GradSafe
from yolo_gradsafe.data import draw_detect, draw_pose


def set_up(model: str, optimizer: str, folder: Path, device: str) -> tuple[object, GradSafe]:
    """Return a trainer that is guarded and has gradients."""
    draw = draw_pose if "pose" in model else draw_detect
    data = draw(folder / "data" / ("pose" if "pose" in model else "detect"), train=8, val=4, size=64)
    guard = GradSafe()
    owner = guard.attach((RTDETR if "rtdetr" in model else YOLO)(model))
    args = {"data": str(data), "imgsz": 64, "batch": 4, "nbs": 4, "device": device, "workers": 0, "plots": False}
    overrides = {**owner.overrides, **args, "model": model, "task": owner.task, "mode": "train", "lr0": 1e-6}
    overrides |= {"project": str(folder), "name": f"{Path(model).stem}-{optimizer}", "optimizer": optimizer}
    trainer = owner._smart_load("trainer")(overrides=overrides, _callbacks=owner.callbacks)
    trainer._setup_train()
    trainer.epoch = 0
    trainer._model_train()
    trainer.run_callbacks("on_train_epoch_start")
    trainer.run_callbacks("on_train_batch_start")
    loss, trainer.loss_items = trainer.model(trainer.preprocess_batch(next(iter(trainer.train_loader))))
    trainer.loss, trainer.tloss, trainer.loss_names = loss.sum(), trainer.loss_items, tuple(trainer.loss_items)
    trainer.loss.backward()
    return trainer, guard


def measure(model: str, optimizer: str, folder: Path, device: str, repeats: int) -> list[dict[str, object]]:
    """Time both steps, with and without a norm above the threshold."""
    trainer, guard = set_up(model, optimizer, folder, device)
    parameters = [p for p in trainer.model.parameters() if p.grad is not None]
    gradients = [p.grad.clone() for p in parameters]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    guarded, rows = trainer.optimizer_step, []
    for clips, target in (("no", 5.0), ("yes", 50.0)):
        scaled = [g * (target / norm) for g in gradients]

        def load(scaled: list[torch.Tensor] = scaled) -> None:
            for parameter, gradient in zip(parameters, scaled, strict=True):
                parameter.grad = gradient.clone()

        arms = {
            "stock": lambda: BaseTrainer.optimizer_step(trainer),
            "guarded": guarded,
            "shared": lambda: shared(trainer),
        }
        times: dict[str, list[float]] = {name: [] for name in arms}
        for repeat in range(repeats + 5):
            order = list(arms) if repeat % 2 else list(arms)[::-1]
            for name in order:
                load()
                trainer.run_callbacks("on_train_batch_start")
                took = timed(arms[name], device)
                if repeat >= 5:
                    times[name].append(took)
        median = {name: statistics.median(values) * 1e3 for name, values in times.items()}
        rows.append({"model": model, "optimizer": optimizer, "clips": clips, **median})
    guard.teardown(trainer)
    return rows


def shared(trainer: object) -> None:
    """Do what both steps have in common: the optimizer, the zeroing, the EMA."""
    trainer.scaler.step(trainer.optimizer)
    trainer.scaler.update()
    trainer.optimizer.zero_grad()
    trainer.ema.update(trainer.model)


def timed(step: object, device: str) -> float:
    """Return the seconds that a step takes."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["yolo26n.yaml", "yolo26l.yaml", "yolo26n-pose.yaml"])
    parser.add_argument("--optimizers", nargs="+", default=["SGD", "AdamW", "MuSGD"])
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--device", default="0" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            for optimizer in options.optimizers:
                rows += measure(model, optimizer, Path(folder), options.device, options.repeats)
    print(f"\ntorch {torch.__version__}, device {options.device}, {torch.get_num_threads()} threads")
    print("| model | optimizer | clips | stock ms | guarded ms | ratio | ratio without optimizer and EMA |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        stock, guarded, both = row["stock"], row["guarded"], row["shared"]
        own = (guarded - both) / (stock - both)
        print(
            f"| {Path(row['model']).stem} | {row['optimizer']} | {row['clips']} | {stock:.2f} | {guarded:.2f} "
            f"| {guarded / stock:.2f} | {own:.2f} |"
        )


if __name__ == "__main__":
    main()
