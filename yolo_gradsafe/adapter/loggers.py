"""The loggers that are at work beside the trainer, through Ultralytics' integrations or by the user's own hand.

They are looked for among the modules that are imported already; nothing is imported, started or ended here.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from yolo_gradsafe.adapter.log import warn

if TYPE_CHECKING:
    from yolo_gradsafe.loggers.steps import Sink

__all__ = ["active_loggers", "name_epoch_axis"]

_INTEGRATIONS = "ultralytics.utils.callbacks"
_BACKLOG = 100
"""Calls to an MLflow server without an answer from which on steps are left out."""
_PATIENCE = 10.0
"""Seconds to wait, at the end of training, for the answers that are out."""


def active_loggers() -> list[Sink]:
    """Return what takes the optimizer steps: TensorBoard's writer, the run of W&B, the run of MLflow."""
    sinks: list[Sink] = []
    if writer := getattr(sys.modules.get(f"{_INTEGRATIONS}.tensorboard"), "WRITER", None):
        sinks.append(_TensorBoard(writer))
    if run := _wandb_run():
        if _wandb_counts_epochs():
            warn("W&B gets no values by step: before Ultralytics 8.4.184 they would shift the epoch axis")
        else:
            sinks.append(_Wandb(run))
    mlflow = sys.modules.get("mlflow")
    if run := getattr(mlflow, "active_run", lambda: None)():
        sinks.append(_MLflow(mlflow, run.info.run_id))
    return sinks


def name_epoch_axis() -> None:
    """Let W&B draw ``gradsafe/*`` over the epoch, as Ultralytics does with its own columns; nothing without W&B."""
    run = _wandb_run()
    if run and not _wandb_counts_epochs():
        run.define_metric("gradsafe/*", step_metric="epoch")


def _wandb_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)


def _wandb_counts_epochs() -> bool:
    """Whether Ultralytics gives W&B the epoch as the number of a row, which may not fall; up to 8.4.183."""
    integration = sys.modules.get(f"{_INTEGRATIONS}.wb")
    logs = getattr(integration, "callbacks", {}).get("on_train_epoch_end")
    return logs is not None and "step=" in inspect.getsource(logs)


class _TensorBoard:
    """The ``SummaryWriter`` of the run; it writes in a thread of its own."""

    name = "TensorBoard"

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def send(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Nothing: Ultralytics closes the writer."""


class _Wandb:
    """A run of W&B, which sends in a process of its own; the steps have their own axis, ``gradsafe_step``."""

    name = "W&B"

    def __init__(self, run: Any) -> None:
        self._run = run
        run.define_metric("gradsafe_steps/*", step_metric="gradsafe_step")

    def send(self, values: dict[str, float], step: int) -> None:
        # Committed, or all steps of an epoch would end up in the one row that Ultralytics commits.
        self._run.log({**values, "gradsafe_step": step}, commit=True)

    def close(self) -> None:
        """Nothing: who started the run ends it."""


class _MLflow:
    """A run of MLflow.

    A call waits for an answer, of a server perhaps, so it is made in a thread; a server that is far behind is spared
    further steps rather than the training held up. The run is named in each call, because without a name MLflow would
    start another run where the user has ended this one.
    """

    name = "MLflow"

    def __init__(self, mlflow: Any, run_id: str) -> None:
        self._client = mlflow.MlflowClient()
        self._metric = mlflow.entities.Metric
        self._run_id = run_id
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gradsafe-mlflow")
        self._calls: deque[Future[Any]] = deque()

    def send(self, values: dict[str, float], step: int) -> None:
        try:
            while self._calls and self._calls[0].done():
                self._calls.popleft().result()
        except Exception:
            self._thread.shutdown(wait=False, cancel_futures=True)
            raise
        if len(self._calls) < _BACKLOG:
            now = int(time.time() * 1000)
            metrics = [self._metric(name, value, now, step) for name, value in values.items()]
            self._calls.append(self._thread.submit(self._client.log_batch, self._run_id, metrics))

    def close(self) -> None:
        """Wait for the answers that are out, for seconds at most."""
        late = wait(self._calls, _PATIENCE).not_done
        self._thread.shutdown(wait=False, cancel_futures=True)
        if late:
            raise TimeoutError(f"{len(late)} calls had no answer after {_PATIENCE:g} s")
        for call in self._calls:
            call.result()
