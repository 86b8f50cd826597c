"""What the adapter compares before it lets the guard act."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils.callbacks import base

from tests.arm import BASE, DETECT
from yolo_gradsafe import YOLO, GradSafe
from yolo_gradsafe.adapter import TrainerAdapter, UnsupportedTrainer, compatibility
from yolo_gradsafe.adapter.compatibility import KNOWN_STEPS, SET_BY_LOOP, WITHOUT, ask, examine, fingerprint


@pytest.fixture(scope="module")
def trainer(drawn, tmp_path_factory):
    """A trainer that is set up, and will not train."""
    folder = str(tmp_path_factory.mktemp("shape"))
    trainer = DetectionTrainer(overrides={**BASE, "model": DETECT, "data": str(drawn["detect"]), "project": folder})
    trainer._setup_train()
    return trainer


def test_the_installed_version_is_known(trainer):
    shape = examine(trainer)
    assert (shape.missing, shape.incompatibilities) == ((), ())
    assert TrainerAdapter(trainer).step_is_stock


def test_the_source_is_read_once_a_process(trainer, monkeypatch):
    examine(trainer)
    read = []
    monkeypatch.setattr(compatibility, "_parsed", read.append)
    assert examine(trainer).incompatibilities == ()
    assert read == []


def test_the_fingerprint_sees_the_body_and_not_its_layout():
    def one():
        """A docstring."""
        return 1  # a comment

    def same():
        return 1

    def other():
        return 2

    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    assert fingerprint(len) == ""


def test_a_step_of_the_users_own_is_no_unknown_version(trainer, monkeypatch):
    def optimizer_step(self):
        """A user's."""

    monkeypatch.setattr(BaseTrainer, "optimizer_step", optimizer_step)
    assert examine(trainer).incompatibilities == ()
    assert not TrainerAdapter(trainer).step_is_stock


def test_a_changed_body_is_one(trainer, monkeypatch):
    def optimizer_step(self):
        """A newer version's."""

    optimizer_step.__module__ = BaseTrainer.__module__
    monkeypatch.setattr(BaseTrainer, "optimizer_step", optimizer_step)
    assert examine(trainer).incompatibilities == ("the code of BaseTrainer.optimizer_step is unknown",)
    assert not TrainerAdapter(trainer).step_is_stock


@pytest.mark.parametrize("name", WITHOUT)
def test_an_attribute_that_is_gone_is_named_and_can_be_done_without(trainer, monkeypatch, name):
    monkeypatch.delattr(trainer, name)
    host = TrainerAdapter(trainer)
    assert host.incompatibilities == (f"trainer.{name} is missing",)
    assert not host.step_is_stock
    assert ask(trainer, name) == WITHOUT[name]
    for fact in ("batch_size", "data", "resumed", "recoveries", "epochs_done", "running_loss", "class_names"):
        getattr(host, fact)
    assert host.accepts_columns(["gradsafe/x"])
    assert host.state.tensors()
    host.hide_metrics()


@pytest.mark.parametrize("name", ["scaler", "optimizer", "args"])
def test_what_no_observer_can_do_without(trainer, monkeypatch, name):
    monkeypatch.delattr(trainer, name)
    with pytest.raises(UnsupportedTrainer, match=rf"trainer\.{name} is missing"):
        TrainerAdapter(trainer)


@pytest.mark.parametrize("name", ["validate", "preprocess_batch", "_handle_nan_recovery"])
def test_a_method_with_another_signature(trainer, monkeypatch, name):
    monkeypatch.setattr(trainer, name, lambda *, options: None, raising=False)
    assert examine(trainer).incompatibilities == (f"trainer.{name} cannot be called as before",)


def test_an_ema_that_is_updated_otherwise(trainer, monkeypatch):
    monkeypatch.setattr(trainer, "ema", SimpleNamespace(update=lambda: None))
    assert examine(trainer).incompatibilities == ("trainer.ema.update cannot be called as before",)


class OtherLoop(DetectionTrainer):
    """A loop in another order, with other names."""

    def _do_train(self):
        self.epoch, self.loss, self.tloss = 0, 0, 0
        self.optimizer_step()
        self.validate()
        self.run_callbacks("on_train_epoch_end")


class Wrapped(DetectionTrainer):
    """A loop that only adds to stock's."""

    def _do_train(self):
        print("training")
        super()._do_train()


class NoSteps(DetectionTrainer):
    """A loop that takes its steps elsewhere."""

    def _do_train(self):
        self.step_once()
        self.optimizer_step()
        self.epoch = 0


def as_class(trainer, cls, monkeypatch):
    monkeypatch.setattr(trainer, "__class__", cls)
    return examine(trainer)


def test_a_loop_in_another_order(trainer, monkeypatch):
    shape = as_class(trainer, OtherLoop, monkeypatch)
    assert shape.missing == ()
    assert [f"the training loop does not set trainer.{name}" for name in SET_BY_LOOP] == list(
        shape.incompatibilities[:2]
    )
    [order] = shape.incompatibilities[2:]
    assert "validate" in order
    assert "optimizer_step" not in order


def test_a_loop_that_wraps_stocks_is_stocks(trainer, monkeypatch):
    assert as_class(trainer, Wrapped, monkeypatch).incompatibilities == ()


def test_a_loop_without_a_loss_cannot_be_observed(trainer, monkeypatch):
    assert as_class(trainer, NoSteps, monkeypatch).missing == ("the training loop does not set trainer.loss",)


def test_every_known_body_is_told_apart():
    assert len(KNOWN_STEPS) == 2
    assert all(len(known) == 16 for known in KNOWN_STEPS)


def test_an_event_that_is_gone_is_said_at_attach(monkeypatch, caplog):
    monkeypatch.delitem(base.default_callbacks, "on_pretrain_routine_end")
    GradSafe().attach(YOLO(DETECT))
    assert "there is no event on_pretrain_routine_end" in caplog.text
    assert caplog.text.count("differs from the versions that this yolo-gradsafe knows") == 1
