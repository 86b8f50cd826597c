"""Trainings on two gloo ranks of one CPU: ``torchrun --nproc_per_node 2 -m tests.runs.ddp SPEC.json OUT``.

Runs the trainings that a file describes, one after the other in the same processes, and writes what became of each on
every rank to ``OUT/NAME/rankN.json``. The few lines of the trainer stand in for what Ultralytics' own distributed
set-up wants an accelerator for. A rank that waits for another longer than a minute gives up, and so do all.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.pose import PoseTrainer

from tests.arm import BASE, DETECT, ROOT
from yolo_gradsafe.judge.verdict import clipped

PATIENCE = 60
"""Seconds after which a rank takes another to be lost."""
_ddp, _reduce = nn.parallel.DistributedDataParallel, dist.reduce


class _CpuDdp(_ddp):
    def __init__(self, module: nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)  # modules on the CPU must not get device_ids


def _reduce_avg(tensor: torch.Tensor, dst: int = 0, op: Any = dist.ReduceOp.SUM, **kwargs: Any) -> None:
    average = op == dist.ReduceOp.AVG  # gloo has none
    _reduce(tensor, dst=dst, op=dist.ReduceOp.SUM if average else op, **kwargs)
    if average:
        tensor /= dist.get_world_size()


class _OnCpu:
    """Makes the ranks of a trainer processes on one CPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.world_size = int(os.environ.get("WORLD_SIZE", "0"))

    def _setup_ddp(self) -> None:
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=timedelta(seconds=PATIENCE))

    def _setup_train(self) -> None:
        with mock.patch.object(nn.parallel, "DistributedDataParallel", _CpuDdp):
            super()._setup_train()

    def validate(self) -> Any:
        """Validate; gloo has no average."""
        with mock.patch.object(dist, "reduce", _reduce_avg):
            return super().validate()

    def final_eval(self) -> None:
        """Leave out what wants an accelerator on every rank."""


class CpuTrainer(_OnCpu, DetectionTrainer):
    """A detection trainer on two ranks."""


class CpuPoseTrainer(_OnCpu, PoseTrainer):
    """A pose trainer on two ranks."""


@dataclass
class Two:
    """A training on two ranks, and what goes wrong in it."""

    name: str
    fault: str = ""
    """Scenario of the drill; empty for none."""
    ranks: list[int] = field(default_factory=list)
    """Ranks on which it strikes."""
    precision: str = "fp32"
    broken: str = ""
    """Function of the plugin that raises, as ``module:Class.method``; empty for none."""
    on: int = 0
    """Rank on which it does."""
    calls: list[int] = field(default_factory=list)
    """Calls of it that raise, from 1; empty for all."""
    args: dict[str, Any] = field(default_factory=dict)
    """Ultralytics arguments that win over ``BASE``."""
    guard: dict[str, Any] = field(default_factory=dict)
    """Options of the guard."""


@dataclass
class Rank:
    """What became of a training on one rank."""

    error: str = ""
    fired: int = 0
    """Batches in which the fault struck."""
    raised: int = 0
    """Calls that raised."""
    verdicts: list[str] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)
    """All-reduces of the plugin by the end of each optimizer step."""
    others: int = 0
    """Other collectives of the plugin."""
    digests: dict[str, str] = field(default_factory=dict)
    """Hashes of what must be the same on all ranks."""
    not_finite: int = 0
    """Tensors of weights, buffers, EMA and optimizer state with a non-finite element."""
    quarantined: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """What became of a training."""

    ranks: list[Rank]
    incidents: list[dict[str, Any]]
    run: Path

    def kinds(self) -> list[str]:
        """Return the kinds of the incidents, in order."""
        return [incident["kind"] for incident in self.incidents]

    def check(self) -> None:
        """Hold the ranks to what holds for every training."""
        assert [rank.error for rank in self.ranks] == ["", ""]
        assert self.ranks[0].digests == self.ranks[1].digests
        assert [rank.not_finite for rank in self.ranks] == [0, 0]
        assert self.ranks[0].verdicts == self.ranks[1].verdicts


def run_ranks(
    trainings: list[Two], data: dict[str, Path], out: Path, timeout: float = 300, nodes: int = 1
) -> dict[str, Outcome]:
    """Train on two ranks, in fresh processes, and return what became of each training by its name.

    Args:
        trainings: What to train.
        data: The data sets by task.
        out: Where to.
        timeout: Seconds for all of them.
        nodes: Machines that the ranks pretend to be on: with two, both have the local rank 0.
    """
    out.mkdir(parents=True, exist_ok=True)
    spec = out / "spec.json"
    told = {"data": {task: str(path) for task, path in data.items()}, "trainings": [asdict(two) for two in trainings]}
    spec.write_text(json.dumps(told))
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(2 // nodes)]
    port = str(20_000 + os.getpid() % 10_000)
    place = ["--standalone"] if nodes == 1 else ["--nnodes", "2", "--master_addr", "127.0.0.1", "--master_port", port]
    logs = [out / f"node{node}.log" for node in range(nodes)]
    started = []
    for node, log in enumerate(logs):
        rank = [] if nodes == 1 else ["--node_rank", str(node)]
        command = [*run, *place, *rank, "-m", "tests.runs.ddp", str(spec), str(out)]
        started.append(subprocess.Popen(command, cwd=out, env=env, stdout=log.open("w"), stderr=subprocess.STDOUT))
    try:
        for process in started:
            process.wait(timeout)
    finally:
        for process in started:
            process.kill()
    return {training.name: _outcome(out / training.name, logs) for training in trainings}


def _outcome(folder: Path, logs: list[Path]) -> Outcome:
    reports = [folder / f"rank{rank}.json" for rank in (0, 1)]
    if not all(report.is_file() for report in reports):
        text = "\n".join(log.read_text()[-3000:] for log in logs)
        return Outcome([Rank(error=f"did not come to its end:\n{text}")] * 2, [], folder)
    run = folder / "train"
    lines = run / "stability" / "incidents.jsonl"
    incidents = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    return Outcome([Rank(**json.loads(report.read_text())) for report in reports], incidents, run)


def main(spec: Path, out: Path) -> None:
    """Train on this rank."""
    torch.set_num_threads(1)
    told = json.loads(spec.read_text())
    for values in told["trainings"]:
        training = Two(**values)
        folder = out / training.name
        folder.mkdir(exist_ok=True)
        found = train(training, told["data"], folder)
        (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(asdict(found)))
        if found.error:
            sys.exit(1)  # the ranks may not be at the same place any more


def train(training: Two, data: dict[str, str], folder: Path) -> Rank:
    """Train once, with what goes wrong if this is the rank for it."""
    from yolo_gradsafe import GradSafe
    from yolo_gradsafe.adapter.fault_target import train_in

    found, rank = Rank(), int(os.environ["RANK"])
    arguments, callbacks = train_in(training.precision, "cpu")
    given = {**BASE, "epochs": 2, "model": DETECT, "project": str(folder), "exist_ok": True}
    given |= {**arguments, **training.args}
    pose = "pose" in str(given["model"])
    trainer = (CpuPoseTrainer if pose else CpuTrainer)(overrides={**given, "data": data["pose" if pose else "detect"]})
    quiet = {"report": {"plot": False, "console": False}, "forensics": {"check_data": False}}
    guard = GradSafe(quiet, **training.guard)
    with ExitStack() as stack:
        for event, callback in callbacks.items():
            trainer.add_callback(event, callback)
        guard.attach(trainer)
        if rank == training.on and training.broken:
            stack.enter_context(_broken(training, found))
        stack.enter_context(_counted(found))
        _watch(trainer, found)
        end = _install(training, trainer) if training.fault and rank in training.ranks else lambda: 0
        try:
            trainer.train()
        except Exception as error:
            found.error = f"{error!r}\n{traceback.format_exc()}"
        found.fired = end()
    _examine(trainer, found)
    return found


def _install(training: Two, trainer: Any) -> Any:
    """Put a fault of the drill below the guard, and return what tells how often it struck."""
    from yolo_gradsafe.drill.catalogue import find

    fault = find(training.fault).make(0)
    for event, callback in fault.callbacks.items():
        if event == "on_pretrain_routine_start":  # which ranks above 0 do not have
            callback(trainer)
        else:
            trainer.callbacks[event].insert(0, callback)
    return lambda: fault.fired


@contextmanager
def _broken(training: Two, found: Rank) -> Iterator[None]:
    """Let a function of the plugin raise."""
    module, _, place = training.broken.partition(":")
    owner, name = import_module(module), place
    if "." in place:
        kind, name = place.split(".")
        owner = getattr(owner, kind)
    own, calls = getattr(owner, name), [0]

    def raising(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if training.calls and calls[0] not in training.calls:
            return own(*args, **kwargs)
        found.raised += 1
        raise MemoryError("planted")

    with mock.patch.object(owner, name, raising):
        yield


@contextmanager
def _counted(found: Rank) -> Iterator[None]:
    """Count the plugin's collectives; DDP's own go another way, and Ultralytics uses other ones."""
    reduce, gather, broadcast = dist.all_reduce, dist.all_gather_object, dist.broadcast
    found.messages.append(0)

    def all_reduce(*args: Any, **kwargs: Any) -> Any:
        found.messages[-1] += 1
        return reduce(*args, **kwargs)

    def other(own: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            found.others += "yolo_gradsafe" in sys._getframe(1).f_globals["__name__"]
            return own(*args, **kwargs)

        return call

    with (
        mock.patch.object(dist, "all_reduce", all_reduce),
        mock.patch.object(dist, "all_gather_object", other(gather)),
        mock.patch.object(dist, "broadcast", other(broadcast)),
    ):
        yield


def _watch(trainer: Any, found: Rank) -> None:
    """Note every step as it is recorded."""

    def begin(trainer: Any) -> None:
        step = vars(trainer).get("optimizer_step")
        if step is None:  # the guard gave way
            return
        record = step.record

        def noted(metrics: Any, verdict: Any, outcome: Any) -> None:
            found.verdicts.append(str(clipped(verdict, outcome.clip.scale)))
            found.messages.append(0)
            record(metrics, verdict, outcome)

        step.record = noted
        quarantine = step.recovery.investigator.quarantine
        trainer.add_callback("on_train_epoch_end", lambda _: setattr(found, "quarantined", quarantine.images))

    trainer.add_callback("on_train_start", begin)


def _examine(trainer: Any, found: Rank) -> None:
    """Look at what is left."""
    from yolo_gradsafe.adapter.state import TrainingState

    state = TrainingState(trainer)
    parts = {"weights": state.weights(), "optimizer": state.optimizer()}
    found.digests = {name: _digest(tensors) for name, tensors in parts.items()}
    found.not_finite = sum(not bool(t.isfinite().all()) for t in state.tensors().values() if t.is_floating_point())


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    sha = hashlib.sha256()
    for name, tensor in tensors.items():
        sha.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
