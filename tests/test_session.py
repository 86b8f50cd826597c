"""A session lives on its trainer: it goes with it, and leaves nothing of ours behind."""

from __future__ import annotations

import gc
import json
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from ultralytics.utils.torch_utils import ModelEMA

from tests.fake_trainer import Core, Tiny, batch_of, differing, nan_batch
from yolo_gradsafe import GradSafe
from yolo_gradsafe.adapter import autocast
from yolo_gradsafe.step import GuardedStep
from yolo_gradsafe.telemetry import RunPaths
from yolo_gradsafe.telemetry.schema import Kind

STANDS_IN = ("optimizer_step", "preprocess_batch", "validate")
"""Methods of the trainer that the guard stands in for."""


def ours_in(trainer: Tiny) -> dict[str, object]:
    """Return what of the plugin hangs on a trainer, its callbacks left aside."""
    return {
        name: value
        for name, value in vars(trainer).items()
        if name in STANDS_IN or "gradsafe" in f"{name} {type(value).__module__} {type(value).__qualname__}".lower()
    }


class Model:
    """What the guard needs of a model that is trained."""

    def __init__(self, trainer: Tiny) -> None:
        self.trainer, self.callbacks, self.add_callback = trainer, trainer.callbacks, trainer.add_callback


def resumed(folder: Path) -> Tiny:
    """Return a trainer that goes on from the first epoch of a run."""
    trainer = Tiny(folder)
    trainer.resume, trainer.start_epoch = True, 1
    return trainer


@pytest.fixture
def quiet() -> GradSafe:
    return GradSafe(forensics={"check_data": False})


def test_a_guarded_trainer_carries_its_session(tmp_path):
    core = Core(tmp_path)
    assert ours_in(core.raw).keys() == {*STANDS_IN, "_gradsafe_session"}
    assert isinstance(core.raw.optimizer_step, GuardedStep)


@pytest.mark.parametrize("steps", [0, 3])
def test_a_trainer_that_never_comes_to_its_teardown_is_let_go(tmp_path, steps):
    core = Core(tmp_path)
    core.train(steps)
    if steps:
        core.raw.take(nan_batch())
    guard, trainer, session = core.guard, weakref.ref(core.raw), weakref.ref(core.session)
    assert guard._session(trainer()) is session()
    del core
    gc.collect()
    assert trainer() is None
    assert session() is None
    assert guard.summary is None


def test_a_guard_that_has_lost_its_trainer_takes_the_next(tmp_path, quiet):
    quiet.attach(Tiny(tmp_path / "lost"))
    gc.collect()
    trainer = quiet.attach(Tiny(tmp_path / "next"))
    assert quiet._session(trainer) is not None
    quiet.detach()
    assert not quiet._guarded
    assert not ours_in(trainer)


@pytest.mark.parametrize("end", ["teardown", "detach", "detach from all"])
def test_the_trainer_gets_its_methods_back_and_nothing_of_ours_is_left(tmp_path, end):
    before = set(vars(Tiny(tmp_path)))
    core = Core(tmp_path)
    core.train(2)
    assert core.recovery.rate._batchnorm.raise_momentum()
    core.raw.metrics["gradsafe/grad_norm"] = 1.0
    if end == "teardown":
        core.raw.run_callbacks("teardown")
        core.guard.detach(core.raw)
    else:
        core.guard.detach(core.raw if end == "detach" else None)
    assert not ours_in(core.raw)
    assert set(vars(core.raw)) == before
    assert not core.raw.metrics
    assert core.raw.model.norm.momentum == 0.03
    for name in STANDS_IN:
        assert getattr(core.raw, name) == getattr(type(core.raw), name).__get__(core.raw)
    functions = [fn for added in core.raw.callbacks.values() for fn in added]
    assert not [fn for fn in functions if getattr(fn, "__self__", None) is core.guard]


def test_it_trains_as_stock_does_from_then_on(tmp_path):
    core, stock = Core(tmp_path / "guarded"), Tiny(tmp_path / "stock")
    core.train(2)
    stock.begin_epoch()
    for seed in range(2):
        stock.take(batch_of(seed))
    core.guard.detach(core.raw)
    for trainer in (core.raw, stock):
        trainer.take(batch_of(2))
        trainer.take(nan_batch(3))
    one, two = core.raw.state(), stock.state()
    assert not differing({k: v.nan_to_num() for k, v in one.items()}, {k: v.nan_to_num() for k, v in two.items()})
    assert one["model/conv.bias"].isnan().any()


def test_what_was_recorded_until_then_has_its_report(tmp_path):
    core = Core(tmp_path)
    core.train(5)
    core.guard.detach()
    assert [row["step"] for row in core.rows()] == ["1", "2", "3", "4", "5"]
    assert core.guard.summary.steps.applied == 5
    assert "detached" in core.guard.summary.headline


@pytest.mark.parametrize("fault", ["save_state", "flush"])
def test_a_fault_of_the_guard_in_a_validation_stays_there(tmp_path, monkeypatch, fault):
    """Trusted weights helped; what is then recorded fails."""
    core, results = Core(tmp_path), [{"val/loss": math.nan, "fitness": 0.0}, {"val/loss": 1.0, "fitness": 0.3}]
    core.raw.best_fitness = None
    core.train(6)
    core.raw.validator = lambda trainer: dict(results.pop(0))

    def planted(*args: Any) -> None:
        raise RuntimeError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(core.session.log if fault == "save_state" else core.session.log.incidents, fault, planted)
        core.raw.validate()
    assert not results
    assert core.session.boundary.faults == {"settle a rescued validation": 1}


def test_a_method_that_the_instance_had_is_the_one_that_it_gets_back(tmp_path, quiet):
    trainer, calls = Tiny(tmp_path), []
    own = trainer.optimizer_step = lambda: calls.append(1)
    quiet.attach(trainer)
    assert trainer.optimizer_step is not own
    quiet.detach(trainer)
    assert trainer.optimizer_step is own


def test_a_method_that_somebody_has_put_in_the_place_of_ours_stays(tmp_path):
    core = Core(tmp_path)
    theirs = core.raw.optimizer_step = lambda: None
    core.guard.detach()
    assert core.raw.optimizer_step is theirs


def test_of_two_guards_the_first_has_the_training(tmp_path, quiet, caplog):
    core = Core(tmp_path)
    step = core.raw.optimizer_step
    quiet.attach(core.raw)
    assert "already has a guard" in caplog.text
    assert core.raw.optimizer_step is step
    assert (quiet._session(core.raw), core.guard._session(core.raw)) == (None, core.session)
    core.train(2)
    assert [row["step"] for row in core.rows()] == ["1", "2"], "each step is taken and told once"
    quiet.detach(core.raw)
    assert core.raw.optimizer_step is step, "what is the other's stays"
    quiet.teardown(core.raw)
    assert core.guard._session(core.raw) is core.session


def test_the_second_may_have_it_when_the_first_has_let_go(tmp_path, quiet):
    core = Core(tmp_path)
    core.guard.detach(core.raw)
    quiet.attach(core.raw)
    assert quiet._session(core.raw) is not None
    assert isinstance(core.raw.optimizer_step, GuardedStep)


def test_one_guard_may_have_two_trainings_under_way(tmp_path, quiet):
    one, two = quiet.attach(Tiny(tmp_path / "1")), quiet.attach(Tiny(tmp_path / "2"))
    assert quiet._session(one) is not quiet._session(two)
    quiet.detach(one)
    assert not ours_in(one)
    assert quiet._session(two) is not None


def test_attaching_again_changes_nothing(tmp_path):
    core = Core(tmp_path)
    core.guard.attach(core.raw)
    assert core.guard._session(core.raw) is core.session
    for event, function in core.guard.callbacks.items():
        assert core.raw.callbacks[event].count(function) == 1


def test_to_let_go_of_a_model_is_to_let_go_of_the_trainer_that_it_trains_with(tmp_path, quiet):
    others = quiet.attach(Tiny(tmp_path / "others"))
    trainer = Tiny(tmp_path / "its")
    model = Model(trainer)
    quiet.attach(model)
    trainer.run_callbacks("on_pretrain_routine_end")
    assert quiet._session(trainer) is not None
    quiet.detach(model)
    assert not ours_in(trainer)
    assert quiet._session(others) is not None


def test_a_session_that_cannot_start_leaves_the_trainer_as_it_was(tmp_path, monkeypatch, quiet):
    def fails(*_):
        raise MemoryError("planted")

    monkeypatch.setattr("yolo_gradsafe.session.Session._announce", fails)
    trainer = Tiny(tmp_path)
    quiet.attach(trainer)
    assert not ours_in(trainer)
    assert not quiet._guarded


@pytest.mark.parametrize("scaler", [None, 1024.0])
def test_an_epoch_whose_gradients_only_gather_has_finite_columns(tmp_path, scaler):
    core = Core(tmp_path, Tiny(tmp_path, scaler=scaler))

    def columns() -> dict[str, float]:
        core.raw.run_callbacks("on_train_epoch_end")
        return core.session.log._row_columns()

    assert math.isnan(columns()["gradsafe/grad_norm"]), "nothing was seen"
    core.raw.backward(batch_of(0))
    gathered = torch.nn.utils.get_total_norm([p.grad / (scaler or 1.0) for p in core.raw.model.parameters()]).item()
    first = columns()
    assert first == {
        "gradsafe/grad_norm": pytest.approx(gathered),
        "gradsafe/grad_norm_max": first["gradsafe/grad_norm"],
        "gradsafe/grad_noise": 0.0,
        "gradsafe/clip_share": 0.0,
        "gradsafe/skipped": 0.0,
        "gradsafe/amp_scale": scaler or 1.0,
    }
    core.raw.epoch += 1
    core.raw.begin_epoch()
    core.raw.take(batch_of(1))
    [step] = core.rows()
    assert columns()["gradsafe/grad_norm"] == pytest.approx(float(step["grad_norm"])), "that of the step alone"
    core.raw.epoch += 1
    core.raw.begin_epoch()
    core.raw.backward(nan_batch())
    last = columns()
    assert math.isnan(last["gradsafe/grad_norm"]), "what is bad was dropped"
    assert last["gradsafe/amp_scale"] == (scaler or 1.0)


def test_a_resumed_run_that_cannot_be_guarded_trains_with_its_own_momentum(tmp_path, monkeypatch, quiet):
    core = Core(tmp_path)
    core.train(2)
    assert core.recovery.rate._batchnorm.raise_momentum()
    core.raw.run_callbacks("on_train_epoch_end")
    raised = []

    def fails(session):
        raised.append(session.trainer.model.norm.momentum)
        raise MemoryError("planted")

    monkeypatch.setattr("yolo_gradsafe.session.Session._announce", fails)
    trainer = quiet.attach(resumed(tmp_path))
    assert raised == [0.1], "the state of the run was taken over"
    assert (trainer.model.norm.momentum, quiet._session(trainer)) == (0.03, None)


def left_behind(folder: Path, **options: Any) -> Core:
    """Return a training that ended after an epoch in which its rate was limited and its weights were rolled back."""
    core = Core(folder, **options)
    core.train(4)
    core.recovery.rate._lr.limit(1.5)
    core.rollback.roll_back(4)
    core.recovery._count_rollback(4)
    return core


def damage(folder: Path, *keys: str) -> None:
    """Take a value out of the state of the newest epoch."""
    path = RunPaths(folder).state
    whole = json.loads(path.read_text())
    inner = whole["epochs"][max(whole["epochs"], key=int)]
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    path.write_text(json.dumps(whole))


def learnt(core: Core) -> tuple[float, int]:
    return core.recovery.rate.factor, core.recovery.state_dict()["rollbacks"]


def test_a_resumed_run_with_other_clipping_loses_nothing_else(tmp_path, caplog):
    core = left_behind(tmp_path)
    core.raw.run_callbacks("on_train_epoch_end")
    caplog.clear()
    other = Core(tmp_path, resumed(tmp_path), clip={"stages": {"conv": {"max_norm": 5}}})
    assert learnt(other) == learnt(core) == (0.01, 1)
    assert "clipper cannot be used, and starts from the beginning: ValueError: " in caplog.text


@pytest.mark.parametrize(
    ("damaged", "kept"),
    [(("history", "vanishing"), (0.01, 1)), (("recovery", "skipped"), (1.0, 0)), (("recovery", "lr"), (1.0, 0))],
)
def test_a_part_that_is_damaged_starts_from_the_beginning_as_a_whole_and_by_its_name(tmp_path, caplog, damaged, kept):
    core = left_behind(tmp_path)
    core.recovery.rate._batchnorm.raise_momentum()
    core.history.loss.sum = 3.0
    core.raw.run_callbacks("on_train_epoch_end")
    damage(tmp_path, *damaged)
    caplog.clear()
    other = Core(tmp_path, resumed(tmp_path))
    assert learnt(other) == kept
    assert other.raw.model.norm.momentum == (0.1 if kept[1] else 0.03)
    assert other.history.loss.sum == (0.0 if damaged[0] == "history" else 3.0)
    [told] = [record.getMessage() for record in caplog.records if "from the beginning" in record.getMessage()]
    assert f"{damaged[0]} cannot be used, and starts from the beginning: KeyError: '{damaged[1]}'" in told


def test_a_resumed_run_trains_in_the_precision_that_it_had_come_to_from_its_first_batch_on(tmp_path):
    core = left_behind(tmp_path, precision_patience=1)
    core.trainer._trained_in = "bf16"
    assert core.recovery.precision.count_fault(4)
    core.raw.run_callbacks("on_train_epoch_end")
    other, seen = Core(tmp_path, resumed(tmp_path), precision_patience=1), []
    for seed in range(2):
        other.raw.run_callbacks("on_train_batch_start")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            other.raw.preprocess_batch(batch_of(seed))
            seen.append(autocast.precision_now("cpu"))
    assert (seen, other.trainer.forward_precision) == (["fp32"] * 2, "fp32")
    assert not other.session.boundary.faults


def test_an_ema_that_ultralytics_recovery_makes_of_the_live_model_is_saved_with_its_own_momentum(tmp_path):
    core = Core(tmp_path)
    core.train(2)
    assert core.recovery.rate._batchnorm.raise_momentum()
    core.raw.ema, core.raw.nan_recovery_attempts = ModelEMA(core.raw.model), 1
    assert core.raw.ema.ema.norm.momentum == 0.1
    core.raw.begin_epoch()
    assert (core.raw.ema.ema.norm.momentum, core.raw.model.norm.momentum) == (0.03, 0.1)
    assert Kind.NATIVE_RECOVERY in core.kinds()


def test_a_run_has_its_report_when_it_ends(tmp_path: Path):
    core = Core(tmp_path)
    core.train(2)
    core.raw.run_callbacks("on_train_epoch_end")
    core.raw.run_callbacks("on_train_end")
    assert core.guard.summary.steps.total == 2
    assert (tmp_path / "stability.json").is_file()
