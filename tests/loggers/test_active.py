"""Which loggers are found, and what each makes of a step."""

from __future__ import annotations

import shutil
import sys
import threading
import time
import types
from collections.abc import Iterator

import pytest

from yolo_gradsafe import adapter
from yolo_gradsafe.adapter import loggers

WANDB, INTEGRATION = "wandb", "ultralytics.utils.callbacks.wb"


class Run:
    """Keeps what a W&B run is told."""

    def __init__(self) -> None:
        self.axes: dict[str, str] = {}
        self.rows: list[tuple[dict[str, float], bool]] = []

    def define_metric(self, name: str, step_metric: str) -> None:
        self.axes[name] = step_metric

    def log(self, values: dict[str, float], commit: bool) -> None:
        self.rows.append((values, commit))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    made = Run()
    monkeypatch.setitem(sys.modules, WANDB, types.SimpleNamespace(run=made))
    return made


def integration(monkeypatch: pytest.MonkeyPatch, on_train_epoch_end) -> None:
    callbacks = {"on_train_epoch_end": on_train_epoch_end}
    monkeypatch.setitem(sys.modules, INTEGRATION, types.SimpleNamespace(callbacks=callbacks))


def test_nothing_is_found_and_nothing_imported_where_no_logger_is_at_work(monkeypatch):
    for name in (WANDB, "mlflow", "ultralytics.utils.callbacks.tensorboard"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    before = set(sys.modules)
    adapter.name_epoch_axis()
    assert adapter.active_loggers() == []
    assert set(sys.modules) == before


def test_wandb_steps_are_rows_of_their_own_on_an_axis_of_their_own(run):
    (sink,) = (sink for sink in adapter.active_loggers() if sink.name == "W&B")
    sink.send({"gradsafe_steps/grad_norm": 2.0}, 40)
    adapter.name_epoch_axis()
    assert run.rows == [({"gradsafe_steps/grad_norm": 2.0, "gradsafe_step": 40}, True)]
    assert run.axes == {"gradsafe_steps/*": "gradsafe_step", "gradsafe/*": "epoch"}


def numbered(trainer) -> None:
    trainer.run.log(trainer.lr, step=trainer.epoch + 1)


def named(trainer) -> None:
    trainer.run.log({**trainer.lr, "epoch": trainer.epoch + 1}, commit=False)


def test_wandb_gets_no_steps_where_ultralytics_numbers_its_rows_by_the_epoch(run, monkeypatch, caplog):
    integration(monkeypatch, named)
    assert [sink.name for sink in adapter.active_loggers()] == ["W&B"]
    run.axes.clear()
    integration(monkeypatch, numbered)
    adapter.name_epoch_axis()
    assert adapter.active_loggers() == []
    assert run.axes == {}
    assert "8.4.184" in caplog.text


def test_tensorboard_gets_a_scalar_a_name(tmp_path, monkeypatch):
    tensorboard = pytest.importorskip("torch.utils.tensorboard", reason="the dev extra brings TensorBoard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = tensorboard.SummaryWriter(str(tmp_path))
    monkeypatch.setitem(sys.modules, "ultralytics.utils.callbacks.tensorboard", types.SimpleNamespace(WRITER=writer))
    (sink,) = adapter.active_loggers()
    sink.send({"gradsafe_steps/norm/head.box": 2.0, "gradsafe_steps/loss": 1.0}, 40)
    sink.close()
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert sorted(events.Tags()["scalars"]) == ["gradsafe_steps/loss", "gradsafe_steps/norm/head.box"]
    (event,) = events.Scalars("gradsafe_steps/norm/head.box")
    assert (event.step, event.value) == (40, 2.0)


# MLflow -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mlflow(tmp_path, monkeypatch) -> Iterator[types.ModuleType]:
    """MLflow on a store of files, with a run that is active."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    module = pytest.importorskip("mlflow", reason="the dev extra brings MLflow")
    with module.start_run():
        yield module


def curve(mlflow: types.ModuleType, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in mlflow.MlflowClient().get_metric_history(run_id, name)]


def test_mlflow_keeps_to_the_run_that_was_active_also_when_it_was_ended(mlflow):
    run_id = mlflow.active_run().info.run_id
    (sink,) = adapter.active_loggers()
    sink.send({"gradsafe_steps/norm/head.box": 2.0}, 10)
    mlflow.end_run()
    sink.send({"gradsafe_steps/norm/head.box": 3.0}, 20)
    sink.close()
    assert curve(mlflow, run_id, "gradsafe_steps/norm/head.box") == [(10, 2.0), (20, 3.0)]
    assert mlflow.active_run() is None, "no run of its own was started"


def test_a_run_that_is_gone_is_told_at_the_next_call(mlflow, tmp_path):
    run_id = mlflow.active_run().info.run_id
    (sink,) = adapter.active_loggers()
    mlflow.end_run()
    shutil.rmtree(tmp_path / "store" / "0" / run_id)
    sink.send({"gradsafe_steps/loss": 1.0}, 10)
    while not sink._calls[0].done():
        time.sleep(0.01)
    with pytest.raises(mlflow.exceptions.MlflowException):
        sink.send({"gradsafe_steps/loss": 1.0}, 20)


def test_a_server_that_does_not_answer_holds_nobody_up(mlflow, monkeypatch):
    monkeypatch.setattr(loggers, "_PATIENCE", 0.05)
    (sink,) = adapter.active_loggers()
    answer = threading.Event()
    sink._client = types.SimpleNamespace(log_batch=lambda run_id, metrics: answer.wait(60))
    started = time.monotonic()
    for step in range(1, 1000):
        sink.send({"gradsafe_steps/loss": 1.0}, step)
    assert len(sink._calls) == loggers._BACKLOG
    with pytest.raises(TimeoutError, match="no answer"):
        sink.close()
    assert time.monotonic() - started < 30
    answer.set()
