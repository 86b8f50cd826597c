"""``GradSafe``: attach, detach, callbacks, summary; in real trainings of six steps."""

from __future__ import annotations

import pickle

import pytest
import torch
import ultralytics
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.pose import PoseTrainer

from tests.arm import BASE, DETECT, POSE, needs_musgd
from yolo_gradsafe import RTDETR, YOLO, ConfigError, GradSafe
from yolo_gradsafe.step import GuardedStep


@pytest.fixture
def tiny(drawn, tmp_path):
    """Arguments of a training of a few steps."""
    return {**BASE, "data": str(drawn["detect"]), "epochs": 1, "project": str(tmp_path), "exist_ok": True}


def callbacks_of(guard, target):
    return [fn for functions in target.callbacks.values() for fn in functions if getattr(fn, "__self__", None) is guard]


def test_attach_returns_the_model_and_fills_the_summary(tiny):
    guard = GradSafe()
    assert guard.summary is None
    model = ultralytics.YOLO(DETECT)
    assert guard.attach(model) is model
    model.train(**tiny)
    assert guard.summary.health == "healthy"
    assert guard.summary.steps.total == 2
    assert (model.trainer.save_dir / "stability.json").is_file()
    assert "optimizer_step" not in vars(model.trainer), "the trainer got its own step back"


def test_attaching_twice_registers_once(tiny):
    guard = GradSafe()
    model = guard.attach(guard.attach(ultralytics.YOLO(DETECT)))
    assert len(callbacks_of(guard, model)) == len(guard.callbacks)


def test_detach_removes_every_callback():
    guard = GradSafe()
    one, two = guard.attach(ultralytics.YOLO(DETECT)), guard.attach(ultralytics.YOLO(DETECT))
    guard.detach(one)
    assert not callbacks_of(guard, one)
    assert callbacks_of(guard, two)
    guard.detach()
    assert not callbacks_of(guard, two)


def test_reset_callbacks_removes_the_guard_and_attach_brings_it_back(tiny):
    guard = GradSafe()
    model = guard.attach(ultralytics.YOLO(DETECT))
    model.reset_callbacks()
    assert not callbacks_of(guard, model)
    model.train(**tiny)
    assert guard.summary is None
    assert not (model.trainer.save_dir / "stability.json").exists()
    guard.attach(model)
    assert callbacks_of(guard, model)


def test_callbacks_are_a_dict_as_in_ultralytics_integrations(tiny):
    guard = GradSafe()
    model = ultralytics.YOLO(DETECT)
    for event, function in guard.callbacks.items():
        model.add_callback(event, function)
    model.train(**tiny)
    assert guard.summary.steps.total == 2


@pytest.mark.parametrize(("trainer", "task", "model"), [
    (DetectionTrainer, "detect", DETECT),
    (PoseTrainer, "pose", POSE),
])  # fmt: skip
def test_a_bare_trainer(tiny, drawn, trainer, task, model):
    guard = GradSafe()
    bare = guard.attach(trainer(overrides={**tiny, "model": model, "data": str(drawn[task])}))
    bare.train()
    assert guard.summary.steps.total == 2
    assert guard.summary.run.task == task


def test_rtdetr(tiny):
    guard = GradSafe("rtdetr")
    RTDETR("rtdetr-resnet50.yaml").train(
        **{**tiny, "batch": 2, "nbs": 2, "fraction": 0.5, "imgsz": 160}, callbacks=guard
    )
    assert guard.summary.threshold == pytest.approx(0.1)
    assert guard.summary.steps.total == 2


def test_the_same_guard_serves_two_trainings_with_separate_records(tiny):
    guard = GradSafe()
    guard.attach(ultralytics.YOLO(DETECT)).train(**{**tiny, "name": "one"})
    first = guard.summary
    guard.attach(ultralytics.YOLO(DETECT)).train(**{**tiny, "name": "two", "epochs": 2})
    assert (first.steps.total, guard.summary.steps.total) == (2, 4)
    assert guard.summary is not first
    assert not guard._guarded


def test_two_guards_on_one_training_do_not_stack(tiny):
    one, two = GradSafe(), GradSafe()
    model = two.attach(one.attach(ultralytics.YOLO(DETECT)))
    model.train(**tiny)
    assert [guard.summary is not None for guard in (one, two)].count(True) == 1


def test_a_users_own_callbacks_still_run(tiny):
    seen = []
    model = GradSafe().attach(ultralytics.YOLO(DETECT))
    model.add_callback("on_train_batch_end", lambda trainer: seen.append(float(trainer.loss)))
    model.train(**tiny)
    assert len(seen) == 2


class OwnStep(DetectionTrainer):
    """A user's trainer that clips at 0.5 and counts its steps."""

    steps = 0

    def optimizer_step(self):
        OwnStep.steps += 1
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update(self.model)


@pytest.mark.parametrize("scale", [None, 1024.0])
def test_a_users_own_optimizer_step_is_called_but_not_with_a_nan(tiny, scale):
    def poison(trainer):
        preprocess, trainer.count = trainer.preprocess_batch, 0

        def preprocess_batch(batch):
            batch, trainer.count = preprocess(batch), trainer.count + 1
            if trainer.count == 2:
                batch["img"][0, 0, 0, 0] = float("nan")
            return batch

        trainer.preprocess_batch = preprocess_batch

    def scaler(trainer):
        if scale:
            trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)

    OwnStep.steps = 0
    guard, norms = GradSafe(), []
    model = YOLO(DETECT)
    callbacks = [guard, {"on_train_start": poison, "on_pretrain_routine_end": scaler}]
    model.train(trainer=OwnStep, **{**tiny, "epochs": 2}, callbacks=callbacks)
    assert OwnStep.steps == 3
    assert guard.summary.steps.skipped == 1
    assert guard.summary.threshold is None, "the plugin does not clip beside the user's own step"
    norms = [epoch.grad_norm_max for epoch in guard.summary.epochs]
    assert all(1 < norm < 10_000 for norm in norms), "norms are unscaled"
    assert all(t.isfinite().all() for t in model.model.state_dict().values())


def test_the_guard_travels_to_ddp_workers(tiny):
    guard = GradSafe(clip={"max_norm": 3.0})
    guard.attach(ultralytics.YOLO(DETECT))
    twin, callback = pickle.loads(pickle.dumps((guard, guard.callbacks["on_train_epoch_end"])))
    assert twin.config == guard.config
    assert callback.__self__ is twin


def test_attach_and_detach_in_the_middle_of_a_training(tiny):
    guard, kinds = GradSafe(), []
    model = ultralytics.YOLO(DETECT)
    model.add_callback("on_train_start", guard.attach)
    model.add_callback("on_train_batch_end", lambda t: kinds.append(isinstance(t.optimizer_step, GuardedStep)))
    model.add_callback("on_train_epoch_end", lambda t: guard.detach(t))
    model.train(**{**tiny, "epochs": 2})
    assert kinds == [True, True, False, False]


def test_wrong_targets_and_options_are_refused_before_training():
    with pytest.raises(TypeError, match="expected an Ultralytics model"):
        GradSafe().attach(torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match=r"clip\.max_nrom: unknown option.*Did you mean 'max_norm'"):
        GradSafe(clip={"max_nrom": 1.0})


def test_an_option_that_only_the_model_can_show_to_be_wrong_fails_before_training(tiny):
    guard = GradSafe(clip={"stages": {"haed": {"max_norm": 1.0}}})
    with pytest.raises(ConfigError, match=r"haed.*head"):
        guard.attach(ultralytics.YOLO(DETECT)).train(**tiny)


@needs_musgd
@pytest.mark.parametrize(
    ("clip", "level"), [pytest.param({}, "INFO", marks=pytest.mark.slow), ({"max_norm": 1.0}, "WARNING")]
)
def test_that_clipping_cannot_limit_muon_is_said(tiny, caplog, clip, level):
    GradSafe(clip=clip).attach(ultralytics.YOLO(DETECT)).train(**{**tiny, "optimizer": "MuSGD"})
    said = [record for record in caplog.records if "does not limit the Muon part" in record.message]
    assert [record.levelname for record in said] == [level]
