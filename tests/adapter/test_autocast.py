"""Precision by device: what hardware has of its own, and a PyTorch that knows no autocast for a device."""

from __future__ import annotations

import pytest
import torch

from yolo_gradsafe.adapter import autocast


@pytest.mark.parametrize(("native", "ladder"), [(True, ["fp16", "bf16", "fp32"]), (False, ["fp16", "fp32"])])
def test_bf16_is_a_rung_only_where_the_gpu_has_it_without_emulation(monkeypatch, native, ladder):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert autocast.precisions_of("cuda", "fp16") == ladder


@pytest.mark.parametrize(("own", "ladder"), [("fp32", ["fp32"]), ("bf16", ["bf16", "fp32"])])
def test_nothing_lies_below_the_trainings_own_precision(own, ladder):
    assert autocast.precisions_of("cpu", own) == ladder


def test_a_device_without_autocast_is_in_fp32_and_stays_there(monkeypatch):
    monkeypatch.setattr(autocast, "is_autocast_available", lambda device: device != "mps")
    with autocast.casting("mps", "fp16"):
        assert autocast.precision_now("mps") == "fp32"
        autocast.set_precision("mps", "fp16")
        assert not torch.is_autocast_enabled("mps")


def test_casting_sets_the_precision_of_its_body():
    with autocast.casting("cpu", "bf16"):
        assert autocast.precision_now("cpu") == "bf16"
        with autocast.casting("cpu", "fp32"):
            assert autocast.precision_now("cpu") == "fp32"
