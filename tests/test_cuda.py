"""On a GPU: real mixed precision, where the CPU's tests have a stand-in for it. Without one all are skipped."""

from __future__ import annotations

import pytest
import torch

from tests.arm import DETECT, POSE, Arm, Result

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

SCALE = """
def high(trainer):
    trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": 2.0**40})
callbacks["on_train_start"].append(high)
"""


def arm(drawn, model: str = DETECT, **values) -> Arm:
    """Return an arm that trains on the first GPU, deterministically, without AMP unless asked for."""
    args = {"device": "0", "amp": False, **values.pop("args", {})}
    return Arm(str(drawn["pose" if model == POSE else "detect"]), model, args, **values)


def assert_sound(result: Result) -> None:
    """Nothing that the training leaves behind is NaN or infinite."""
    assert result.error == ""
    assert set(result.not_finite.values()) == {0}
    assert "nan" not in str(result.losses())
    assert "internal error" not in result.log


@pytest.mark.parametrize("amp", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize(("model", "optimizer"), [(DETECT, "SGD"), (DETECT, "AdamW"), (POSE, "AdamW")])
def test_healthy_run_equals_stock(train, drawn, model, optimizer, amp):
    """Some kernels have no deterministic form: where stock differs from itself there is nothing to hold against it."""
    args = {"amp": amp, "optimizer": optimizer}
    stock = train(arm(drawn, model, args=args), "stock")
    guarded = train(arm(drawn, model, args=args, guard={}), "guarded")
    assert_sound(guarded)
    if stock.digests != guarded.digests and stock.digests != train(arm(drawn, model, args=args), "again").digests:
        pytest.skip("two stock trainings differ on this GPU")
    assert guarded.digests == stock.digests
    assert guarded.losses() == stock.losses()


@pytest.mark.parametrize("amp", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_nan_batch_costs_its_own_step(train, drawn, amp, batch):
    result = train(arm(drawn, args={"amp": amp}, guard={}, nan_pixel=[(1, batch)]))
    assert result.fired == [[1, batch]]
    assert_sound(result)
    bad = [incident for incident in result.incidents() if incident["kind"] == "bad_batch"]
    assert [(incident["epoch"], incident["batch"]) for incident in bad] == [(1, batch)]
    assert bad[0]["cause"] == "preprocessing"


def test_a_loss_scale_that_overflows_is_routine(train, drawn):
    """GradScaler finds its scale by overflowing: nothing of it is warned of, and the run is stock's."""
    result = train(arm(drawn, args={"amp": True}, guard={}, code=SCALE))
    assert_sound(result)
    assert "amp_overflow" in {row["verdict"] for row in result.steps}
    assert result.incidents() == []
