"""A guarded training with a fault ends as its scenario promises: some cases of ``gradsafe drill --full``."""

from __future__ import annotations

import pytest

from yolo_gradsafe.drill.case import FULL, QUICK, Case
from yolo_gradsafe.drill.run import run_cases

pytestmark = pytest.mark.slow

SHORT = [
    Case("no-fault", "pose", "fp16", "MuSGD"),
    Case("nan-pixel-first-batch", "pose", "fp32", "MuSGD"),
    Case("poisonous-image", "detect", "scaler", "SGD"),
    Case("nan-backbone", "detect", "fp16", "AdamW"),
    Case("inf-head", "pose", "bf16", "AdamW"),
    Case("nan-loss-last-batch", "detect", "scaler", "MuSGD"),
    Case("huge-gradients", "detect", "fp32", "SGD"),
    Case("nan-weight", "pose", "bf16", "SGD"),
    Case("nan-running-mean-very-last", "detect", "fp32", "MuSGD"),
    Case("nan-momentum", "detect", "fp32", "AdamW"),
    Case("inf-ema-buffer", "detect", "scaler", "AdamW"),
    Case("zero-scale", "detect", "scaler", "SGD"),
]
"""Six steps: all stays finite, and no more is lost than was promised."""
LONG = [Case("flipped-weight", "detect", "fp32", "AdamW"), Case("nan-batches-10", "pose", "scaler", "SGD")]
"""Long enough to learn: the accuracy holds, too."""


@pytest.mark.parametrize("case", SHORT, ids=str)
def test_short(case, tmp_path):
    (row,) = run_cases([case], QUICK, tmp_path, seeds=1, stock=False)
    assert row.judgement.passed, row.judgement.reasons


@pytest.mark.parametrize("case", LONG, ids=str)
def test_long(case, tmp_path):
    (row,) = run_cases([case], FULL, tmp_path, seeds=1, stock=False)
    assert row.judgement.passed, row.judgement.reasons
