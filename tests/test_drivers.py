"""Who takes the optimizer step: ours equals stock's to the bit, the trainer's own is called as it is, or not at all."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from ultralytics.engine.trainer import BaseTrainer

from tests.fake_trainer import Core, Tiny, batch_of, differing, nan_batch
from yolo_gradsafe.clipping import Clip
from yolo_gradsafe.drivers import ObserveOnly, OwnStep, StepDriver, StockStep
from yolo_gradsafe.recovery.outcome import UNASSESSED, Outcome
from yolo_gradsafe.telemetry.schema import Verdict

SKIP = Outcome(apply=False, amp_scale=8.0)


class Own(Tiny):
    """A trainer with a step of its own, which neither clips nor has an EMA."""

    calls = 0

    def optimizer_step(self) -> None:
        type(self).calls += 1
        self.rate = self.optimizer.param_groups[0]["lr"]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()


def train(trainer: Tiny, steps: int, spread: float = 1.0, bad: tuple[int, ...] = ()) -> Tiny:
    trainer.begin_epoch()
    for seed in range(steps):
        trainer.take(nan_batch(seed) if seed in bad else batch_of(seed, spread))
    return trainer


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("scaler", [None, 2.0**10, 2.0**127], ids=["fp32", "scaler", "overflows"])
@pytest.mark.parametrize("spread", [1.0, 30.0], ids=["small", "clipped"])
def test_ours_equals_stocks(tmp_path, optimizer, scaler, spread):
    stock = train(Tiny(tmp_path / "stock", optimizer, scaler), 12, spread)
    core = Core(tmp_path / "guarded", Tiny(tmp_path / "guarded", optimizer, scaler))
    assert isinstance(core.step.driver, StockStep)
    train(core.raw, 12, spread)
    assert not differing(core.raw.state(), stock.state())
    assert not core.kinds()
    verdicts = {row["verdict"] for row in core.rows()}
    assert (Verdict.AMP_OVERFLOW in verdicts) is (scaler == 2.0**127), "GradScaler skips a step, looking for its scale"
    assert (Verdict.CLIPPED in verdicts) is (spread > 1)


def test_a_step_that_cannot_be_assessed_is_stocks(tmp_path):
    stock = train(Tiny(tmp_path / "stock"), 6, spread=30.0)
    core = Core(tmp_path / "guarded", Tiny(tmp_path / "guarded"))

    def fails(*_):
        raise MemoryError("planted")

    core.step.measurement._meter.measure = fails
    train(core.raw, 6, spread=30.0)
    assert not differing(core.raw.state(), stock.state())
    assert core.session.boundary.faults == {"assess an optimizer step": 6}


def test_a_step_is_skipped_without_a_trace_but_for_the_scale(tmp_path):
    core = Core(tmp_path, Tiny(tmp_path, scaler=8.0))
    core.train(3)
    core.raw.backward(batch_of(9))
    before = core.raw.state()
    core.step.driver.begin()
    core.step.driver.finish(SKIP)
    assert {name for name in differing(core.raw.state(), before) if not _statistic(name)} == set()
    assert all(p.grad is None for p in core.raw.model.parameters())


def _statistic(name: str) -> bool:
    return name.startswith("model/norm.")  # the forward pass's own, which the savepoint puts back


@pytest.mark.parametrize(("scale", "next_scale"), [(8.0, 8.0), (0.0, 8.0), (math.nan, 8.0)])
def test_a_skipped_step_leaves_a_scale_that_can_be_trained_with(tmp_path, scale, next_scale):
    core = Core(tmp_path, Tiny(tmp_path, scaler=8.0))
    core.train(1)
    core.raw.backward(batch_of(9))
    core.step.driver.begin()
    core.step.driver.finish(Outcome(apply=False, amp_scale=scale))
    assert core.raw.scaler.get_scale() == next_scale


def test_the_rate_is_lowered_for_one_step(tmp_path):
    core, other = Core(tmp_path / "1"), Core(tmp_path / "2", Tiny(tmp_path / "2", lr=0.001))
    for made, factor in ((core, 0.1), (other, 1.0)):
        made.raw.backward(batch_of(1))
        made.step.driver.finish(Outcome(grads_finite=True, amp_scale=1.0, lr_factor=factor))
    assert core.raw.optimizer.param_groups[0]["lr"] == 0.01
    for (name, one), two in zip(core.raw.model.named_parameters(), other.raw.model.parameters(), strict=True):
        assert torch.allclose(one, two, rtol=1e-6, atol=0), name


def test_a_step_that_is_not_clipped_has_the_threshold_in_force(tmp_path):
    core = Core(tmp_path)
    assert core.step.driver.unclipped() == Clip(math.inf, 1.0)
    core.train(1)
    assert core.step.driver.unclipped() == Clip(10.0, 1.0)


# The trainer's own ---------------------------------------------------------------------------------------------------


def test_a_step_of_ones_own_is_called_as_it_is(tmp_path):
    own = train(Own(tmp_path / "own"), 8, spread=30.0)
    core = Core(tmp_path / "guarded", Own(tmp_path / "guarded"))
    assert isinstance(core.step.driver, OwnStep)
    train(core.raw, 8, spread=30.0)
    assert not differing(core.raw.state(), own.state()), "it does not clip, and so nothing does"


def test_it_is_not_called_for_a_bad_step(tmp_path):
    core = Core(tmp_path, Own(tmp_path))
    core.train(4)
    before, Own.calls = core.raw.state(), 0
    core.raw.take(nan_batch())
    assert Own.calls == 0
    assert not differing(core.raw.state(), before)
    assert all(p.grad is None for p in core.raw.model.parameters())


def test_its_gradients_are_scaled_when_it_is_called_and_measured_as_if_they_were_not(tmp_path):
    core, plain = Core(tmp_path / "1", Own(tmp_path / "1", scaler=1024.0)), Core(tmp_path / "2", Own(tmp_path / "2"))
    for made in (core, plain):
        made.raw.take(batch_of(1))
    [one], [two] = core.rows(), plain.rows()
    assert float(one["grad_norm"]) == pytest.approx(float(two["grad_norm"]), rel=1e-5)
    assert (one["threshold"], one["clip_scale"], one["verdict"]) == ("inf", "1", "ok")


def test_the_rate_of_its_step_is_lowered_as_well(tmp_path):
    core = Core(tmp_path, Own(tmp_path))
    core.recovery.rate._lr.lower()
    core.raw.take(batch_of(1))
    assert core.raw.rate == pytest.approx(0.001)
    assert core.raw.optimizer.param_groups[0]["lr"] == 0.01


# Without any remedy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Tiny, Own])
@pytest.mark.parametrize("scaler", [None, 1024.0])
def test_an_observer_takes_bad_steps_as_stock_does(tmp_path, kind, scaler):
    stock = train(kind(tmp_path / "stock", scaler=scaler), 6, bad=(3,))
    core = Core(tmp_path / "guarded", kind(tmp_path / "guarded", scaler=scaler), enabled=False)
    assert isinstance(core.step.driver, ObserveOnly)
    train(core.raw, 6, bad=(3,))
    state, expected = core.raw.state(), stock.state()
    for name in expected.keys() | state.keys():
        assert torch.equal(state[name].nan_to_num(), expected[name].nan_to_num()), name
    assert state["model/norm.running_mean"].isnan().any(), "nothing is put back"
    assert core.kinds()[0] == "bad_batch"


@pytest.mark.parametrize("make", [
    lambda core: StockStep(core.trainer, None, None),
    lambda core: OwnStep(core.trainer, None),
    lambda core: ObserveOnly(StockStep(core.trainer, None, None), core.trainer),
])  # fmt: skip
def test_each_says_what_it_does(tmp_path, make):
    driver: StepDriver = make(Core(tmp_path))
    says = {"StockStep": (True, True, True), "OwnStep": (False, True, False), "ObserveOnly": (True, False, True)}
    assert (driver.unscales, driver.acts, driver.clips) == says[type(driver).__name__]


def test_stocks_step_is_that_of_ultralytics(tmp_path: Path):
    core = Core(tmp_path)
    assert type(core.raw).optimizer_step is BaseTrainer.optimizer_step
    assert core.trainer.step_is_stock
    assert UNASSESSED.apply, "a step that looked healthy is taken whatever fails"


@pytest.mark.parametrize("factor", [1.0, 0.1])
def test_a_step_of_the_trainers_own_may_add_a_parameter_group(tmp_path, factor):
    trainer, added = Own(tmp_path), torch.nn.Parameter(torch.zeros(2))
    step = trainer.optimizer_step
    trainer.optimizer_step = lambda: (trainer.optimizer.add_param_group({"params": [added], "lr": 0.5}), step())
    core = Core(tmp_path, trainer)
    if factor < 1:
        core.recovery.rate._lr.lower()
    core.raw.take(batch_of(0))
    assert trainer.rate == pytest.approx(0.01 * factor)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [0.01, 0.5]
