"""Checkpoints are looked through without running any code in them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch
from torch import nn

from tests.report.stock import checkpoint, model
from yolo_gradsafe.checkpoint import read_checkpoint


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def saved(folder: Path, values: object) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(values, folder / "last.pt")
    return folder / "last.pt"


def test_names_and_numbers_are_those_of_the_state_dict(tmp_path):
    net = model()
    found = read_checkpoint(saved(tmp_path, checkpoint(net, 4)), tmp_path)
    assert (found.error, found.file, found.epoch, found.stripped) == ("", "last.pt", 4, False)
    assert (found.version, found.model, found.amp_scale) == ("8.4.190", "yolo26n.yaml", 65536.0)
    assert found.tensors == sum(tensor.is_floating_point() for tensor in net.state_dict().values())
    assert not found.damaged
    assert read_checkpoint(saved(tmp_path, checkpoint(net)), tmp_path).stripped


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    trap = tmp_path / "trap"
    path = saved(tmp_path / "run", {**checkpoint(model(), 4), "train_args": Evil(trap)})
    found = read_checkpoint(path, tmp_path / "run")
    assert found.error == ""
    assert not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.exists(), "the trap is a real one"


def test_a_class_that_is_not_at_hand_is_no_hindrance(tmp_path):
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

    Own.__qualname__ = "Own"
    globals()["Own"] = Own
    try:
        path = saved(tmp_path, checkpoint(Own().half(), 2))
    finally:
        del globals()["Own"]
    found = read_checkpoint(path, tmp_path)
    assert (found.error, found.tensors) == ("", 2)


def test_what_is_no_checkpoint_is_a_finding(tmp_path):
    for content in (b"", b"not a file of PyTorch", pickle.dumps({"model": None})):
        (tmp_path / "last.pt").write_bytes(content)
        assert read_checkpoint(tmp_path / "last.pt", tmp_path).error
    assert "holds no model" in read_checkpoint(saved(tmp_path, {"epoch": 3}), tmp_path).error


def test_an_infinite_buffer_of_the_users_is_meant_to_be(tmp_path):
    net = model()
    net.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))
    net.register_buffer("count", torch.tensor([1.0]))
    assert not read_checkpoint(saved(tmp_path, checkpoint(net, 4)), tmp_path).damaged
    net.count.fill_(torch.nan)
    found = read_checkpoint(saved(tmp_path, checkpoint(net, 4)), tmp_path)
    assert [tensor.name for tensor in found.nonfinite] == ["count"]
