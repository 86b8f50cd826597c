"""The demo's own trainings at a learning rate that is too high: the accuracy of the trained model, against stock's."""

from __future__ import annotations

import pytest

from tests.arm import DETECT, POSE, Arm
from yolo_gradsafe.drill.demo import DEMO, draw_demo

MAP = "metrics/mAP50(B)"
RATE = 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("model", "optimizer"), [(DETECT, "AdamW"), (DETECT, "SGD"), (POSE, "AdamW")])
def test_it_ends_no_worse_than_stock(train, tmp_path, model, optimizer):
    data = draw_demo("pose" if model == POSE else "detect", tmp_path / "data")
    args = {**DEMO, "optimizer": optimizer, "lr0": RATE}
    stock = train(Arm(str(data), model, args), "stock")
    guarded = train(Arm(str(data), model, args, guard={}), "guarded")
    assert stock.error == guarded.error == ""
    assert {incident["kind"] for incident in guarded.incidents()} & {"lr_backoff", "batchnorm_lag"}
    accuracy = float(guarded.results[-1][MAP])
    assert accuracy >= float(stock.results[-1][MAP])
    assert accuracy > 0.5, "and it learned"
