"""The guard on a simulated GPU: what it reads, launches and allocates, and what a training without memory comes to."""

from __future__ import annotations

import gc
import math
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.engine.trainer import BaseTrainer

from tests.arm import DETECT, POSE
from tests.cuda_trainer import OnCuda, move_trainer, small_yolo
from tests.fake_cuda import CUDA, FakeCuda, FakeTensor
from tests.fake_trainer import Core, Tiny, batch_of, nan_batch
from yolo_gradsafe.clipping.registry import mode_names
from yolo_gradsafe.forensics import diagnose
from yolo_gradsafe.forensics.search import Budget
from yolo_gradsafe.recovery.trusted_weights import trusted_do_better
from yolo_gradsafe.telemetry.schema import Cause, Kind

# The device itself ----------------------------------------------------------------------------------------------------


def test_what_is_made_on_the_device_or_of_its_tensors_is_there(device):
    made = [torch.zeros(3, device="cuda:0"), torch.tensor([1.0, 2.0], device=CUDA), torch.ones(2).to("cuda:0")]
    made += [made[0] + 1, made[0][1:], made[0].view(1, 3), torch.zeros_like(made[0]), torch.arange(3).type_as(made[0])]
    assert all(isinstance(t, FakeTensor) and t.is_cuda and t.device == CUDA for t in made)
    assert type(torch.zeros(3)) is torch.Tensor


def test_devices_are_not_mixed_but_for_single_numbers(device):
    there = torch.ones(3, device="cuda:0")
    assert (there + torch.tensor(2.0)).tolist() == [3.0, 3.0, 3.0]
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(3)
    with pytest.raises(RuntimeError, match="same device"):
        torch._foreach_mul_([there], [torch.ones(3)])
    with pytest.raises(TypeError, match="cuda:0"):
        there.numpy()


@pytest.mark.parametrize("read", [
    float, bool, int, lambda t: t.item(), lambda t: t.tolist(), lambda t: t.cpu(), lambda t: t.to("cpu"),
    lambda t: t.nonzero(), lambda t: torch.zeros(()).copy_(t), lambda t: t.reshape(1)[t.reshape(1) > 0],
    lambda t: torch.equal(t, t), lambda _: torch.cuda.synchronize(),
])  # fmt: skip
def test_each_read_by_the_host_is_noted_with_its_place(device, read):
    value = torch.ones((), device="cuda:0")
    with device.counted():
        read(value)
    assert len(device.reads) == 1
    assert "test_fake_cuda.py" in device.reads[0]


def test_copies_to_the_device_are_waited_for_unless_they_are_pinned(device):
    pinned = torch.ones(3, pin_memory=True)
    with device.counted():
        torch.ones(3).to("cuda:0", non_blocking=True)
        pinned.to("cuda:0", non_blocking=True)
    assert len(device.uploads) == 1


def test_a_copy_to_pinned_memory_holds_nan_until_it_was_waited_for(device):
    values, pinned, pageable = torch.arange(3.0).to("cuda:0"), torch.empty(3, pin_memory=True), torch.empty(3)
    pinned.copy_(values, non_blocking=True)
    values.add_(1)
    assert pinned.isnan().all()
    event = torch.cuda.Event()
    event.record()
    later = torch.empty(3, pin_memory=True).copy_(values, non_blocking=True)
    event.synchronize()
    assert pinned.tolist() == [0.0, 1.0, 2.0], "as it was when the copy was asked for"
    assert later.isnan().all(), "the event came before it"
    pageable.copy_(values, non_blocking=True)
    assert pageable.tolist() == later.tolist() == [1.0, 2.0, 3.0], "without pinned memory the host waits for all"


def test_memory_is_counted_and_comes_back(device):
    before = device.used
    kept = torch.zeros(10, device="cuda:0")
    view = kept[2:]
    assert device.used - before == 40
    del kept
    assert device.used - before == 40, "a view holds it"
    del view
    assert device.used == before
    assert device.peak >= before + 40


def test_a_chosen_allocation_fails_and_so_does_one_beyond_the_limit(device):
    device.fails_at = device.allocations + 2
    torch.zeros(1, device="cuda:0")
    with pytest.raises(torch.OutOfMemoryError):
        torch.zeros(1, device="cuda:0")
    device.capacity = device.used + 100
    with pytest.raises(torch.OutOfMemoryError):
        torch.zeros(26, device="cuda:0")
    assert torch.zeros(25, device="cuda:0").shape == (25,)


def test_autocast_and_the_scaler_are_cudas(device):
    weight = nn.Parameter(torch.ones(2, 2, device="cuda:0"))
    optimizer, scaler = torch.optim.AdamW([weight], fused=True), torch.amp.GradScaler("cuda", init_scale=4.0)
    with torch.autocast("cuda"):
        made = torch.nn.functional.linear(torch.ones(1, 2, device="cuda:0"), weight)
    assert made.dtype == torch.float16
    scaler.scale(made.float().sum()).backward()
    assert (weight.grad.device, weight.grad.tolist()) == (CUDA, [[4.0, 4.0], [4.0, 4.0]])
    with device.counted():
        scaler.step(optimizer)
        scaler.update()
    assert device.reads == [], "a fused optimizer looks for itself whether a gradient is not finite"
    assert weight.tolist() != [[1.0, 1.0], [1.0, 1.0]]


# Whole steps of YOLO --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "optimizer", "precision", "stock"), [
    (DETECT, "SGD", "fp32", 0),
    (POSE, "AdamW", "fp16", 0),
    pytest.param(DETECT, "SGD", "fp16", 1, marks=pytest.mark.slow),
    pytest.param(DETECT, "MuSGD", "fp16", 1, marks=pytest.mark.slow),
    pytest.param(DETECT, "AdamW", "fp32", 0, marks=pytest.mark.slow),
    pytest.param(POSE, "SGD", "bf16", 0, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_healthy_step_reads_once_and_launches_a_few_operations_more(
    device, drawn, tmp_path, model, optimizer, precision, stock
):
    data = drawn["pose" if model == POSE else "detect"]
    on = OnCuda(device, model, data, tmp_path, optimizer, precision, recovery={"trust_steps": 50})  # no snapshot in it
    on.take(0)  # the optimizer makes its state
    counts = {}
    for name, step in (("stock", on.stock_step), ("guarded", on.trainer.optimizer_step)):
        on.trainer.run_callbacks("on_train_batch_end")
        on.backward(1)
        with device.counted():
            step()
        counts[name] = (len(device.reads), len(device.uploads), sum(device.launches.values()))
    assert counts["stock"][:2] == (stock, 0)
    assert counts["guarded"][:2] == (1, 0), device.reads + device.uploads
    assert counts["guarded"][2] <= counts["stock"][2] + 20, "and none a tensor"
    with device.counted():
        on.trainer.run_callbacks("on_train_batch_end")
        on.trainer.run_callbacks("on_train_batch_start")
    assert (device.reads, device.uploads, device.launches) == ([], [], {})
    assert not on.session.boundary.faults
    on.close()


# A small model: every allocation, every fault, every rule -------------------------------------------------------------


def on_device(device: FakeCuda, batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch with its tensors on the device."""
    return {key: device.tensor(value) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


def tiny(device: FakeCuda, folder: Path, optimizer: type = torch.optim.SGD, scaler: float | None = None, **more: Any):
    """Return a guarded small trainer on the device."""
    raw = Tiny(folder)
    move_trainer(device, raw, "fp32" if scaler is None else "fp16")
    momentum = {"momentum": 0.9} if optimizer is torch.optim.SGD else {"fused": True}
    raw.optimizer = optimizer(raw.model.parameters(), lr=0.01, **momentum)
    raw.preprocess_batch = lambda batch: batch
    if scaler is not None:
        raw.scaler = torch.amp.GradScaler("cuda", init_scale=scaler)
        raw.scaler._lazy_init_scale_growth_tracker(CUDA)
    return Core(folder, raw, **more)


def train(core: Core, device: FakeCuda, seeds: range) -> None:
    for seed in seeds:
        core.raw.take(on_device(device, batch_of(seed)))


def finite(core: Core) -> bool:
    return all(bool(t.isfinite().all()) for t in core.trainer.state.tensors().values())


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_snapshot_is_copied_without_waiting_and_read_only_once_it_has_arrived(device, tmp_path, optimizer):
    core = tiny(device, tmp_path, optimizer)
    train(core, device, range(2))
    waited = device.events
    with device.counted():
        train(core, device, range(2, 4))
    assert len(device.reads) == 2, "the steps' own"
    assert device.events > waited, "a snapshot was proven"
    snapshot = core.rollback.trusted
    assert all(t.isfinite().all() for t in snapshot._tensors.values())
    assert all(t.is_contiguous() or t.ndim == 4 for t in snapshot._tensors.values())


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_rollback_restores_the_device_to_the_bit(device, tmp_path, optimizer):
    core = tiny(device, tmp_path, optimizer)
    train(core, device, range(4))
    before = {name: t.clone() for name, t in core.rollback.trusted._tensors.items()}
    train(core, device, range(4, 5))
    core.rollback.roll_back(5)
    live = core.trainer.state.tensors()
    assert all(torch.equal(live[name].cpu(), value) for name, value in before.items())
    assert all(isinstance(t, FakeTensor) for name, t in live.items())


@pytest.mark.parametrize(
    "place", ["model/conv.weight", "ema/norm.running_var", "optimizer/head.weight/momentum_buffer"]
)
def test_what_is_not_finite_on_the_device_is_repaired_there(device, tmp_path, place):
    core = tiny(device, tmp_path)
    train(core, device, range(4))
    core.trainer.state.tensors()[place].view(-1)[0] = math.nan
    core.rollback.check_state()
    assert finite(core)
    assert core.kinds() == ["healed"]


def spoil_gradient(core: Core) -> None:
    core.raw.model.head.weight.register_hook(lambda g: g * math.nan if core.session._progress.step == 4 else g)


def spoil_weight(core: Core) -> None:
    core.raw.model.conv.weight.data.view(-1)[0] = math.nan


def spoil_statistics(core: Core) -> None:
    core.raw.model.norm.running_var[0] = math.inf


def spoil_moment(core: Core) -> None:
    core.raw.optimizer.state[core.raw.model.conv.weight]["momentum_buffer"].view(-1)[0] = math.nan


@pytest.mark.parametrize("scaler", [None, 8.0], ids=["fp32", "fp16"])
@pytest.mark.parametrize(("fault", "kinds"), [
    (None, {"bad_batch"}),
    (spoil_gradient, {"bad_batch"}),
    (spoil_weight, {"poisoned", "healed"}),
    (spoil_statistics, {"poisoned"}),
    (spoil_moment, {"healed"}),
], ids=["pixel", "gradient", "weight", "statistics", "moment"])  # fmt: skip
def test_faults_are_handled_on_the_device_without_one_of_the_guards_own(device, tmp_path, fault, kinds, scaler):
    """Of the drill's faults one of each place; those of drawn data and of the loader are not the device's matter."""
    core = tiny(device, tmp_path, scaler=scaler, isolate="never")
    train(core, device, range(4))
    core.incidents()
    if fault is None:
        core.raw.take(on_device(device, nan_batch()))
    else:
        fault(core)
        train(core, device, range(4, 5))
    train(core, device, range(5, 7))
    core.rollback.check_state()
    seen = set(core.kinds())  # which asserts that the guard itself has not failed
    assert kinds <= seen or (scaler and fault is spoil_gradient and not seen), "GradScaler looks after its overflows"
    assert finite(core)


@pytest.mark.parametrize("overflow", [False, True], ids=["under", "over"])
@pytest.mark.parametrize("mode", mode_names())
def test_every_rule_clips_on_the_device_and_reads_no_tensor_by_itself(device, tmp_path, mode, overflow):
    core = tiny(device, tmp_path, clip={"mode": mode})
    train(core, device, range(3))
    core.raw.backward(on_device(device, batch_of(3)))
    for parameter in core.raw.model.parameters():
        parameter.grad.mul_(1e4 if overflow else 1e-4)
    with device.counted():
        core.raw.optimizer_step()
    assert not core.session.boundary.faults
    assert len(device.reads) <= 2, "the step's, and for some rules the scale that they have come to"
    assert device.uploads == []


def test_an_overflow_of_amp_reads_twice_however_many_gradients_it_hits(device, tmp_path):
    core = tiny(device, tmp_path, scaler=8.0)
    train(core, device, range(3))
    core.raw.backward(on_device(device, batch_of(3)))
    for parameter in core.raw.model.parameters():
        parameter.grad.fill_(math.inf)
    with device.counted():
        core.raw.optimizer_step()
    assert core.rows()[-1]["verdict"] == "amp_overflow"
    assert len(device.reads) <= 3, "the step's, which gradients, and whether the state is finite"


# Out of memory --------------------------------------------------------------------------------------------------------


def bad_labels(device: FakeCuda) -> dict[str, Any]:
    """Return a batch whose loss is NaN although its images and its model are fine."""
    return on_device(device, {**batch_of(4), "target": torch.full((4,), math.nan)})


def bad_step(core: Core, device: FakeCuda, at: int | None = None) -> int:
    """Take a bad step in which the allocation of this number fails; return how many there are in it."""
    core.raw.backward(bad_labels(device))
    start = device.allocations
    device.fails_at = None if at is None else start + at
    core.raw.optimizer_step()
    device.fails_at = None
    core.raw.run_callbacks("on_train_batch_end")
    return device.allocations - start


SHARE = [pytest.param(24, id="some"), pytest.param(10**6, id="all", marks=pytest.mark.slow)]
"""Allocations that fail in turn: so many, evenly spaced, or every one."""


def spread(count: int, most: int) -> range:
    return range(1, count + 1, max(1, count // most))


@pytest.mark.parametrize("most", SHARE)
def test_an_allocation_that_fails_in_an_investigation_costs_its_answer_and_never_the_remedy(device, tmp_path, most):
    # After so many steps on one batch its loss is near 0, and any other is far above it.
    core = tiny(device, tmp_path, isolate="never", max_skips=10**6, divergence=False)
    train(core, device, range(4))
    count = bad_step(core, device)
    assert count > 100, "it was looked into"
    core.incidents()
    causes = set()
    for at in spread(count, most):
        core.recovery.investigator._looked = 0
        failed = device.out_of_memory
        bad_step(core, device, at)
        assert device.out_of_memory == failed + 1
        train(core, device, range(5, 6))
        (incident,) = core.incidents()  # which asserts that no fault is left to the boundary
        assert (str(incident.kind), incident.steps_lost) == ("bad_batch", 1)
        causes.add(incident.cause)
    assert [row["verdict"] for row in core.rows()[-2:]] == ["bad_batch", "ok"]
    assert finite(core)
    assert causes <= {Cause.LOSS, Cause.LABEL, Cause.ACTIVATIONS, Cause.UNKNOWN}


@pytest.mark.parametrize("most", SHARE)
def test_an_allocation_that_fails_where_weights_are_compared_makes_the_answer_no_at_most(device, tmp_path, most):
    core = tiny(device, tmp_path)
    train(core, device, range(4))
    trusted, batch = core.rollback.trusted, on_device(device, batch_of(4))
    core.raw.model.head.weight.data.mul_(1e3)
    before = {name: t.cpu() for name, t in core.trainer.state.tensors().items()}
    start = device.allocations
    assert trusted_do_better(core.trainer, batch, trusted)
    for at in spread(device.allocations - start, most):
        device.fails_at = device.allocations + at
        trusted_do_better(core.trainer, batch, trusted)
        device.fails_at = None
        after = {name: t.cpu() for name, t in core.trainer.state.tensors().items()}
        assert all(torch.equal(after[name], before[name]) for name in before), at


class BadGradients:
    """A trainer whose first convolution has NaN gradients, from when that is asked for."""

    def __init__(self, device: FakeCuda, model: str, data: Path, folder: Path) -> None:
        self.device, self.taken = device, 0
        torch.manual_seed(0)  # what is found, and so where there are allocations, depends on the weights
        self.on = OnCuda(device, model, data, folder, callbacks={"on_pretrain_routine_start": self._install})
        self._bad = False
        for number in range(3):
            self.on.take(number)
        self._bad = True

    def _install(self, trainer: Any) -> None:
        own = trainer.preprocess_batch

        def preprocess_batch(batch: Any) -> Any:
            batch = own(batch)
            if self._bad:
                first = next(m for m in self.on.model.modules() if isinstance(m, nn.Conv2d))
                first.weight.register_hook(lambda gradient: gradient * math.nan)
            return batch

        trainer.preprocess_batch = preprocess_batch

    def take(self, fails_at: int | None = None, fails_on: str | None = None) -> None:
        """Take a bad step, in which an allocation fails."""
        self.on.session.step.recovery.investigator._looked = 0
        self.on.backward(0)
        self.device.fails_at = None if fails_at is None else self.device.allocations + fails_at
        self.device.fails_on = fails_on
        self.on.trainer.optimizer_step()
        self.device.fails_at = self.device.fails_on = None
        self.on.trainer.run_callbacks("on_train_batch_end")
        self.taken += 1

    def check(self) -> None:
        """Each step was skipped, and the guard has not failed."""
        assert all(bool(p.isfinite().all()) for p in self.on.model.parameters())
        assert self.on.session.step.recovery._skipped == self.taken
        assert not self.on.session.boundary.faults


@pytest.fixture
def patient(monkeypatch):
    """An investigation takes the time that it needs: here each operation passes through Python."""
    monkeypatch.setattr(diagnose, "Budget", lambda _seconds, evaluations: Budget(1e6, evaluations))


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("every", [pytest.param(8, id="some"), pytest.param(1, id="all")])
@pytest.mark.parametrize("pose", [False, True], ids=["detect", "pose"])
def test_an_allocation_that_fails_on_a_way_through_an_investigation_of_a_small_yolo(
    device, drawn, tmp_path, pose, every
):
    """Ways through the guard's lines: passes in halves, hooks on every layer, the look at every operation.

    There are some 150, and 35,000 allocations on them: to let each fail would take a hundred hours here. That is done
    with the smaller model above.
    """
    bad = BadGradients(device, small_yolo(tmp_path, pose), drawn["pose" if pose else "detect"], tmp_path)
    device.ways = set()
    bad.take()
    ways, device.ways = sorted(device.ways), None
    assert len(ways) > 100, "it was looked into"
    failed = 0
    for way in ways[::every]:
        before = device.out_of_memory
        bad.take(fails_on=way)
        failed += device.out_of_memory - before
        bad.check()
    assert failed > 0.8 * len(ways[::every]), "a way or two lie beyond what is found then"
    bad.on.close()


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_an_allocation_that_fails_in_an_investigation_of_the_newest_yolo(device, drawn, tmp_path):
    """A spread of the first of some hundred thousand."""
    bad = BadGradients(device, DETECT, drawn["detect"], tmp_path)
    for at in [None, *range(1, 2000, 250)]:
        bad.take(fails_at=at)
        bad.check()
    bad.on.close()


@contextmanager
def full(device: FakeCuda, size: int = 0):
    """Let every allocation that is larger than a size fail."""
    device.full_from, device.full_size = device.allocations, size
    try:
        yield
    finally:
        device.full_from = None


def test_without_any_memory_for_it_the_ladder_climbs_all_the_same(device, tmp_path):
    core = tiny(device, tmp_path, max_skips=5, on_exhausted="stop")
    train(core, device, range(4))
    core.incidents()
    for _ in range(8):
        core.raw.backward(on_device(device, {**batch_of(4), "target": torch.full((4,), math.nan)}))
        with full(device, 100):  # the activations of a batch
            core.raw.optimizer_step()
        core.raw.run_callbacks("on_train_batch_end")
    incidents = core.incidents()
    assert {str(i.cause) for i in incidents if i.kind is Kind.BAD_BATCH} <= {str(Cause.UNKNOWN), str(Cause.LOSS)}
    assert Kind.STOP in {i.kind for i in incidents}


def test_what_an_investigation_has_reserved_is_given_back(device, tmp_path):
    core = tiny(device, tmp_path)
    train(core, device, range(4))
    core.raw.backward(bad_labels(device))
    gc.collect()
    device._empty_cache()
    device.peak = reserved = device.reserved
    core.raw.optimizer_step()
    assert device.peak > reserved
    assert device.reserved < reserved + 256, "what followed it has measured a few numbers"


def test_a_healthy_training_needs_no_more_than_copies_of_the_statistics(device, tmp_path):
    """A step may measure while the optimizer's state is there: numbers of a few hundred bytes, and no more."""
    peaks = {}
    for guarded in (False, True):
        core = tiny(device, tmp_path / str(guarded))
        step = core.raw.optimizer_step if guarded else partial(BaseTrainer.optimizer_step, core.raw)
        gc.collect()
        device.peak = base = device.used
        for seed in range(3):
            core.raw.backward(on_device(device, batch_of(seed)))
            step()
            core.raw.run_callbacks("on_train_batch_end")
        peaks[guarded] = device.peak - base
        del core, step
    assert peaks[True] <= peaks[False] + 512
