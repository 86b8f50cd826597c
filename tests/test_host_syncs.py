"""How often the guard makes the host wait for the device: counted over real trainings, stock's and guarded.

On a GPU every read of a tensor's value stops the host until all that was launched before it is done. On the CPU the
same reads can be counted, and counts, unlike times, are the same on every machine.
"""

from __future__ import annotations

import warnings
from collections import Counter
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics
from torch.utils._python_dispatch import TorchDispatchMode
from ultralytics.engine.trainer import BaseTrainer

from benchmarks.trainer import backward, set_up
from tests.arm import BASE, DETECT
from yolo_gradsafe import GradSafe

READS = ("item", "tolist", "cpu", "numpy", "__array__", "__bool__", "__float__", "__int__", "__index__")
"""Methods of a tensor that give its value to the host."""
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim"}
"""Operations that wait for the device: the first copies a scalar to the host, the rest need values to size a result."""
EPOCHS, BATCHES, WINDOW = 2, 4, 2
STEPS = EPOCHS * BATCHES // WINDOW


class HostReads(TorchDispatchMode):
    """Counts, by what the trainer is at (``step``, an event's name, or ``""``), what makes the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.at = ""
        self.calls: Counter[str] = Counter()
        """Outermost calls of the methods in ``READS``."""
        self.operations: Counter[str] = Counter()
        """Operations in ``WAITING``, also those inside of torch's own functions."""
        self.entered: Counter[str] = Counter()
        """How often each was come to."""
        self._inside = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        by_mask = func.overloadpacket.__name__ == "index" and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        self.operations[self.at] += by_mask or func.overloadpacket.__name__ in WAITING
        return func(*args, **(kwargs or {}))

    @contextmanager
    def being(self, at: str):
        outer, self.at = self.at, at
        self.entered[at] += 1
        try:
            yield
        finally:
            self.at = outer

    def watch(self, trainer: Any) -> None:
        """Let a trainer say what it is at."""
        step, run_callbacks = trainer.optimizer_step, trainer.run_callbacks

        def watched_step() -> None:
            with self.being("step"):
                step()

        def watched_callbacks(event: str) -> None:
            with self.being(event):
                run_callbacks(event)

        trainer.optimizer_step, trainer.run_callbacks = watched_step, watched_callbacks

    @contextmanager
    def patched(self):
        """Count the calls of a tensor's methods, too."""
        with pytest.MonkeyPatch.context() as patch:
            for name in READS:
                patch.setattr(torch.Tensor, name, self._counted(getattr(torch.Tensor, name)))
            with self:
                yield self

    def _counted(self, method):
        @wraps(method)
        def counted(*args, **kwargs):
            if self._inside:
                return method(*args, **kwargs)
            self.calls[self.at] += 1
            self._inside = True
            try:
                return method(*args, **kwargs)
            finally:
                self._inside = False

        return counted


@pytest.fixture(scope="module")
def reads(drawn: dict[str, Path], tmp_path_factory: pytest.TempPathFactory):
    """Train with or without the guard, with or without a GradScaler; return what was counted.

    The guard samples the updates at every step: nothing that it does now and then reads anything either.
    """

    @cache
    def train(guarded: bool, scaler: bool = False) -> HostReads:
        counts, model = HostReads(), ultralytics.YOLO(DETECT)
        if guarded:
            guard = GradSafe(telemetry={"update_ratio_steps": 1})
            guard.attach(model)
        if scaler:
            scaled = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1000)
            model.add_callback("on_pretrain_routine_end", lambda trainer: setattr(trainer, "scaler", scaled))
        model.add_callback("on_train_start", counts.watch)
        args = {"epochs": EPOCHS, "batch": 8 // BATCHES, "nbs": 8 // BATCHES * WINDOW, "warmup_epochs": 0, "val": False}
        project = str(tmp_path_factory.mktemp("reads"))
        with counts.patched():
            model.train(data=str(drawn["detect"]), project=project, **{**BASE, **args})
        assert (counts.entered["step"], counts.entered["on_train_batch_start"]) == (STEPS, EPOCHS * BATCHES)
        if guarded:
            assert guard.summary.steps.applied == STEPS
            assert not guard.summary.incidents, "the counts are of the healthy path"
        return counts

    return train


def test_a_step_reads_the_device_once(reads):
    stock, guarded = reads(False), reads(True)
    assert stock.calls["step"] == stock.operations["step"] == 0
    assert guarded.calls["step"] == STEPS
    assert guarded.operations["step"] == 0, "the one read is a tolist, and nothing inside of torch waits"


def test_with_a_scaler_its_own_read_is_saved(reads):
    stock, guarded = reads(False, scaler=True), reads(True, scaler=True)
    assert stock.calls["step"] == STEPS, "GradScaler.step asks whether a gradient was not finite"
    assert guarded.calls["step"] == STEPS, "the guard knows, and says so"
    assert guarded.operations["step"] == 0 < stock.operations["step"]


def test_a_batch_reads_nothing_for_the_guard(reads):
    stock, guarded = reads(False), reads(True)
    for event in ("on_train_batch_start", "on_train_batch_end"):
        assert guarded.calls[event] == guarded.operations[event] == 0
    once = 1  # before training: whether the weights were trained before
    assert guarded.calls[""] == stock.calls[""] + once, "forward, backward and the progress bar"
    assert guarded.operations[""] == stock.operations[""] + once


def test_an_epoch_reads_once_whether_its_state_is_sound_before_it_is_saved(reads):
    counts = reads(True)
    assert counts.calls["on_train_epoch_end"] == EPOCHS
    assert counts.calls["on_train_epoch_start"] == 1, "the first snapshot, before the first step"


@contextmanager
def no_synchronisation():
    """Raise at whatever makes the host wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def synchronisations(step: Any) -> int:
    """Count how often a step makes the host wait for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("scaler", [False, True])
def test_on_a_gpu(tmp_path, scaler):
    trainer, guard = set_up(DETECT, "SGD", tmp_path, "0")
    trainer.scaler = torch.amp.GradScaler("cuda", enabled=scaler)
    guarded, faults = trainer.optimizer_step, guard._session(trainer).boundary.faults
    with no_synchronisation():
        trainer.run_callbacks("on_train_batch_end")
        trainer.run_callbacks("on_train_batch_start")
        trainer.run_callbacks("on_train_batch_end")
    trainer.optimizer.zero_grad()
    counts = {}
    for name, step in (("stock", lambda: BaseTrainer.optimizer_step(trainer)), ("guarded", guarded)):
        backward(trainer)
        torch.cuda.synchronize()
        counts[name] = synchronisations(step)
    assert not faults
    assert counts == {"stock": int(scaler), "guarded": 1}
    guard.teardown(trainer)
