"""Finite gradients whose norm overflows fp32: stock zeroes them all in silence, the guard clips them right."""

from __future__ import annotations

import json
import math

import pytest

from tests.arm import Arm

# In the second batch of the second epoch every gradient is 1e25 times what it is.
HUGE = """
def arm_hooks(trainer):
    def scale(grad):
        hit = (trainer.epoch + 1, trainer.batch_number) == (2, 2)
        return grad * 1e25 if hit else grad
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(scale)
callbacks.setdefault("on_train_start", []).append(arm_hooks)
"""


@pytest.mark.parametrize("scaler", [None, 1.0], ids=["no-scaler", "scaler"])
def test_it_is_clipped_by_its_true_norm_and_recorded(train, drawn, scaler):
    result = train(Arm(str(drawn["detect"]), guard={}, code=HUGE, scaler=scaler))
    assert result.error == ""
    assert result.not_finite == {"model": 0, "ema": 0, "optimizer": 0, "scaler": 0}
    [incident] = result.incidents()
    assert (incident["kind"], incident["epoch"], incident["batch"]) == ("norm_overflow", 2, 2)
    assert incident["action"] == "clipped by the correct norm"
    [row] = [row for row in result.steps if (row["epoch"], row["batch"]) == ("2", "2")]
    assert row["verdict"] == "clipped"
    assert 1e24 < float(row["grad_norm"]) < math.inf
    assert float(row["clip_scale"]) * float(row["grad_norm"]) == pytest.approx(10.0, rel=1e-3)
    assert json.loads((result.run / "stability.json").read_text())["steps"]["applied"] == 6


def test_the_step_is_the_one_that_the_gradients_direction_asks_for(train, drawn):
    # Clipping divides the factor out again: the run equals the one whose gradients were never scaled, up to rounding.
    plain = train(Arm(str(drawn["detect"]), guard={}), "plain")
    huge = train(Arm(str(drawn["detect"]), guard={}, code=HUGE), "huge")
    for a, b in zip(plain.losses(), huge.losses(), strict=True):
        for name in a:
            assert float(a[name]) == pytest.approx(float(b[name]), rel=2e-2, abs=1e-3), name


def test_observing_leaves_it_to_stock(train, drawn):
    stock = train(Arm(str(drawn["detect"]), code=HUGE), "stock")
    observed = train(Arm(str(drawn["detect"]), guard={"recovery": {"enabled": False}}, code=HUGE), "observed")
    assert observed.digests == stock.digests
    [incident] = observed.incidents()
    assert incident["action"] == "nothing, recovery is off: Ultralytics sets all gradients to 0"


def test_observing_a_nan_batch_leaves_it_to_stock(train, drawn):
    stock = train(Arm(str(drawn["detect"]), nan_pixel=[(2, 1)]), "stock")
    observed = train(Arm(str(drawn["detect"]), nan_pixel=[(2, 1)], guard={"recovery": {"enabled": False}}), "observed")
    assert observed.digests == stock.digests
    assert observed.fired == stock.fired != []
    assert observed.error == stock.error
    kinds = [incident["kind"] for incident in observed.incidents()]
    assert kinds[0] == "bad_batch"
    assert set(kinds[1:]) <= {"bad_batch", "poisoned", "native_recovery"}
