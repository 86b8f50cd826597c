"""A buffer that is infinite by design, such as an attention mask, is neither a fault nor ever written to."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tests.fake_trainer import Core, Tiny, TinyModel, batch_of, differing, nan_batch
from yolo_gradsafe.adapter.state import unbounded_buffers
from yolo_gradsafe.forensics.activations import bad_state
from yolo_gradsafe.telemetry.schema import Kind

FILLS = {"inf": -math.inf, "lowest": torch.finfo(torch.float32).min}
MASKS = pytest.mark.parametrize(("persistent", "fill"), [(True, "inf"), (False, "inf"), (True, "lowest")])


def causal_mask(fill: float) -> Tensor:
    return torch.full((4, 4), fill).triu(1)


class Masked(TinyModel):
    """Attends from each pixel to those before it, and counts its batches in a buffer of its own."""

    def __init__(self, persistent: bool, fill: float) -> None:
        super().__init__()
        self.register_buffer("mask", causal_mask(fill), persistent=persistent)
        self.register_buffer("images", torch.zeros(1))

    def forward(self, batch):
        if self.training:
            self.images += len(batch["img"]) + 0 * batch["img"].sum()
        features = self.norm(self.conv(batch["img"])).relu().flatten(2).transpose(1, 2)
        attention = (features @ features.transpose(1, 2) + self.mask).softmax(-1)
        error = self.head((attention @ features).mean(1))[:, 0] - batch["target"]
        losses = torch.stack([error.square().mean(), error.abs().mean()])
        return losses * len(error), dict(zip(("box_loss", "cls_loss"), losses.detach(), strict=True))


def trainer(folder, persistent: bool, fill: str) -> Tiny:
    return Tiny(folder, model=partial(Masked, persistent, FILLS[fill]))


@MASKS
def test_a_healthy_run_with_a_mask_is_stocks(tmp_path, persistent, fill):
    core, stock = Core(tmp_path, trainer(tmp_path, persistent, fill)), trainer(tmp_path, persistent, fill)
    stock.begin_epoch()
    core.train(60)
    for seed in range(60):
        stock.take(batch_of(seed))
    core.session.end_epoch()
    assert Counter(row["verdict"] for row in core.rows()) == {"ok": 60}
    assert core.incidents() == []
    assert core.rollback.trusted.step > 0
    assert not differing(core.raw.model.state_dict(), stock.model.state_dict())
    assert differing(core.raw.ema.ema.state_dict(), stock.ema.ema.state_dict()) <= {"mask"}, "NaN in stock's"
    assert float(core.raw.model.images) == 240
    for model in (core.raw.model, core.raw.ema.ema):
        assert torch.equal(model.mask, causal_mask(FILLS[fill]))


def test_an_ema_that_cannot_average_the_mask_gets_the_models(tmp_path, caplog):
    core = Core(tmp_path, trainer(tmp_path, True, "inf"))
    core.train(2)
    for _ in range(2):
        core.raw.ema.ema.mask[0, 1] = math.nan  # as a `lerp` of two infinities is
        core.session.end_epoch()
        assert torch.equal(core.raw.ema.ema.mask, causal_mask(-math.inf))
    assert caplog.text.count("cannot average mask") == 1


def test_without_recovery_nothing_is_done_about_it(tmp_path):
    core = Core(tmp_path, trainer(tmp_path, True, "inf"), enabled=False)
    core.raw.ema.ema.mask[0, 1] = math.nan
    core.session.end_epoch()
    assert core.raw.ema.ema.mask[0, 1].isnan()


@MASKS
def test_a_nan_batch_is_skipped_and_its_buffers_are_put_back(tmp_path, persistent, fill):
    core = Core(tmp_path, trainer(tmp_path, persistent, fill))
    core.train(5)
    before = core.raw.state()
    core.raw.backward(nan_batch())
    assert core.raw.model.norm.running_mean.isnan().any(), "the fault did not fire"
    core.raw.optimizer_step()
    core.raw.run_callbacks("on_train_batch_end")
    assert core.kinds() == [Kind.BAD_BATCH]
    assert not differing(core.raw.state(), before)
    assert float(core.raw.model.images) == 20
    assert torch.equal(core.raw.model.mask, causal_mask(FILLS[fill]))


@MASKS
def test_a_rollback_and_a_repair_leave_the_mask_alone(tmp_path, persistent, fill):
    core = Core(tmp_path, trainer(tmp_path, persistent, fill))
    core.train(4)
    with torch.no_grad():
        core.raw.model.head.weight[0, 0] = math.nan
        core.raw.ema.ema.images.fill_(math.nan)
    assert core.rollback.repair_nonfinite() == 2
    assert core.rollback.roll_back(4).snapshot == 2
    core.session.end_epoch()
    assert float(core.raw.model.images) == 8
    for model in (core.raw.model, core.raw.ema.ema):
        assert torch.equal(model.mask, causal_mask(FILLS[fill]))


def test_a_nan_in_another_buffer_of_the_users_is_found(tmp_path):
    core = Core(tmp_path, trainer(tmp_path, True, "inf"))
    core.train(3)
    core.raw.backward(batch_of(3))
    core.raw.model.images.fill_(math.nan)
    core.raw.optimizer_step()
    assert core.kinds() == [Kind.POISONED]
    assert float(core.raw.model.images) == 12, "as it was after the last good step"


def test_a_buffer_of_any_size_does_not_blow_the_statistics_up(tmp_path):
    core = Core(tmp_path, trainer(tmp_path, True, "inf"))
    core.train(3)
    core.raw.backward(batch_of(3))
    core.raw.model.images.fill_(2.0**40)
    core.raw.optimizer_step()
    assert core.incidents() == []
    assert float(core.raw.model.images) == 2.0**40


def test_a_buffer_that_grows_from_nothing_is_not_taken_back(tmp_path):
    core = Core(tmp_path, trainer(tmp_path, True, "inf"), trust_steps=1000)
    core.train(2)
    core.raw.model.images.fill_(2.0**20)  # 0 in the snapshot
    core.session.end_epoch()
    assert core.incidents() == []
    assert float(core.raw.model.images) == 2.0**20


def test_batch_norm_statistics_that_are_not_finite_are_never_meant_to_be():
    model = nn.Sequential(nn.BatchNorm2d(2), Masked(False, -math.inf))
    model[0].running_var.fill_(math.inf)
    assert unbounded_buffers(model) == {"1.mask"}


def test_a_mask_of_a_frozen_module_is_not_blamed():
    model = Masked(True, -math.inf).eval()
    assert bad_state(model, unbounded_buffers(model)) == []
    model.images.fill_(math.nan)
    assert bad_state(model, frozenset({"mask"})) == ["images"]
