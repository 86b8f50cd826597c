"""Runs without a guard, as Ultralytics leaves them: ``args.yaml``, ``results.csv`` and tiny checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

ARGUMENTS = {
    "task": "detect", "mode": "train", "model": "yolo26n.pt", "data": "my data.yaml", "epochs": 20, "batch": 16,
    "imgsz": 640, "optimizer": "auto", "lr0": 0.01, "warmup_epochs": 3.0, "amp": True, "val": True, "resume": False,
    "device": "0", "save_dir": "/somewhere/runs/detect/train", "name": "train", "patience": 100, "plots": False,
}  # fmt: skip
Row = dict[str, float]


def healthy(epoch: int, epochs: int = 20) -> Row:
    """Return a row of a training that learns."""
    share = epoch / epochs
    return {
        "epoch": epoch, "time": 10.0 * epoch,
        "train/box_loss": 2 - share, "train/cls_loss": 3 - 2 * share, "train/dfl_loss": 1.1,
        "metrics/precision(B)": 0.6 * share, "metrics/recall(B)": 0.5 * share,
        "metrics/mAP50(B)": 0.6 * share, "metrics/mAP50-95(B)": 0.4 * share,
        "val/box_loss": 2 - 0.9 * share, "val/cls_loss": 3 - 1.8 * share, "val/dfl_loss": 1.2,
        "lr/pg0": 0.01 * min(1, epoch / 3) * (1.01 - share), "lr/pg1": 0.01 * (1.01 - share),
    }  # fmt: skip


def set_in(rows: list[Row], epochs: range | list[int], **changes: float) -> list[Row]:
    """Return rows with columns changed in some epochs: ``train__box_loss`` is ``train/box_loss``, ``val`` all such."""
    for row in rows:
        if row["epoch"] in epochs:
            for key, value in changes.items():
                names = [n for n in row if n.startswith(f"{key}/")] if key in ("train", "val") else []
                row.update(dict.fromkeys(names or [key.replace("__", "/")], value))
    return rows


def model(change: Callable[[nn.Module], Any] | None = None) -> nn.Module:
    """Return a network of one convolution with its batch norm, in half precision as checkpoints are."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net.yaml = {"yaml_file": "yolo26n.yaml"}
    if change is not None:
        with torch.no_grad():
            change(net)
    return net.half()


def checkpoint(net: nn.Module, epoch: int | None = None, **values: Any) -> dict[str, Any]:
    """Return the content of a checkpoint: after an epoch, or, without one, stripped as at the end of a training."""
    if epoch is None:
        return {"epoch": -1, "model": net, "ema": None, "optimizer": None, "version": "8.4.190", **values}
    moments = {"state": {0: {"step": torch.tensor(9.0), "exp_avg": torch.ones(3)}}, "param_groups": []}
    scaler = {"scale": 65536.0, "_growth_tracker": 3}
    return {
        "epoch": epoch - 1, "model": None, "ema": net, "optimizer": moments, "scaler": scaler, "version": "8.4.190",
        **values,
    }  # fmt: skip


def write(
    folder: Path,
    rows: list[Row] | None = None,
    last: dict[str, Any] | None = None,
    best: dict[str, Any] | None = None,
    **arguments: Any,
) -> Path:
    """Write a run; a checkpoint that is not given is there, and sound. Arguments go into ``args.yaml``."""
    folder.mkdir(parents=True)
    (folder / "args.yaml").write_text(yaml.safe_dump({**ARGUMENTS, **arguments}))
    rows = [healthy(epoch) for epoch in range(1, 21)] if rows is None else rows
    if rows:
        lines = [",".join(rows[0]), *(",".join(f"{value:.6g}" for value in row.values()) for row in rows)]
        (folder / "results.csv").write_text("\n".join(lines) + "\n")
    (folder / "weights").mkdir()
    for name, values in (("last", last), ("best", best)):
        torch.save(checkpoint(model()) if values is None else values, folder / "weights" / f"{name}.pt")
    return folder
