"""What only a GPU can show, check by check; ``gpu.sh`` runs them all and ends with ``collect``.

    python benchmarks/gpu.py CHECK --out FOLDER [--device 0|cpu]

Each check writes ``FOLDER/CHECK.json``, rows of what was measured; ``collect`` makes one table and ``gpu.json`` of them
and of the tables in the logs of the other parts. With ``--device cpu`` all of it runs at tiny sizes, to find slips in
the script: numbers that a CPU does not have are then ``null``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("YOLO_OFFLINE", "true")

import torch
from ultralytics import YOLO
from ultralytics.engine.trainer import BaseTrainer

from benchmarks.harness import machine, table
from benchmarks.trainer import backward, draw, set_up
from yolo_gradsafe import GradSafe, adapter
from yolo_gradsafe.recovery.host_arena import HostArena
from yolo_gradsafe.recovery.snapshot import Snapshot

MODEL = "yolo26n.yaml"
GIB = 2**30
AMP = {"fp32": False, "fp16": True, "bf16": "bf16"}
RATES = {"SGD": 0.01, "AdamW": 0.001, "MuSGD": 0.01}
"""Learning rates that suit: at others the guard would lower them."""
Row = dict[str, Any]
"""What was measured: ``what``, and numbers or words by name."""


class Machine:
    """Where it runs, and how large.

    Args:
        device: ``0``, or ``cpu`` for a run at tiny sizes.
        out: Folder for results.
    """

    def __init__(self, device: str, out: Path) -> None:
        self.device, self.out = device, out
        self.cuda = device != "cpu"
        self.size, self.batch = (640, 16) if self.cuda else (64, 4)

    def arguments(self, folder: Path, **more: Any) -> dict[str, Any]:
        """Return arguments for a training on drawn data."""
        images = 4 * self.batch
        data = draw(MODEL, folder, train=images, val=4, size=self.size)
        args = {
            "data": str(data),
            "imgsz": self.size,
            "batch": self.batch,
            "nbs": self.batch,
            "epochs": 2,
            "workers": 0,
        }
        args |= {"device": self.device, "plots": False, "val": False, "seed": 0, "amp": False, "mosaic": 0.0}
        return {**args, "project": str(folder), "name": "run", "exist_ok": True, "warmup_epochs": 0, **more}


# Checks ---------------------------------------------------------------------------------------------------------------


def parity(machine: Machine) -> list[Row]:
    """Weights after deterministic trainings, guarded and stock; a second stock run tells whether stock repeats."""
    precisions = AMP if machine.cuda else {"fp32": False}
    cases = [(p, o) for p in precisions for o in RATES]
    arms = [(*case, arm) for case in cases for arm in ("stock", "guarded", "again")]

    def run(arm: tuple[str, str, str]) -> str:
        words = [sys.executable, __file__, "arm", "--out", str(machine.out), "--device", machine.device, "--arm", *arm]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.stdout.splitlines()[-1] if done.returncode == 0 else f"failed: {done.stderr[-300:]}"

    with ThreadPoolExecutor(4 if machine.cuda else 1) as pool:
        digests = dict(zip(arms, pool.map(run, arms), strict=True))
    rows = []
    for case in cases:
        stock, guarded, again = (digests[(*case, arm)] for arm in ("stock", "guarded", "again"))
        said = "the same bits" if stock == guarded else "stock differs from itself" if stock != again else "DIFFERS"
        rows.append({"what": " ".join(case), "guarded": guarded if guarded.startswith("failed") else said})
    return rows


def arm(machine: Machine, precision: str, optimizer: str, name: str) -> None:
    """Train one arm and print a digest of its weights."""
    with tempfile.TemporaryDirectory() as folder:
        owner, guard = YOLO(MODEL), None
        if name == "guarded":
            guard = GradSafe(report={"console": False, "plot": False})
            guard.attach(owner)
        with adapter.without_integrations():
            arguments = machine.arguments(Path(folder), amp=AMP[precision], optimizer=optimizer, verbose=False)
            owner.train(**{**arguments, "imgsz": 64, "batch": 4, "nbs": 4, "lr0": RATES[optimizer]})
        if guard is not None and (guard.summary is None or guard.summary.incidents):
            sys.exit(f"the guard acted: {guard.summary and guard.summary.headline}")  # then it is not for parity
        state = {name: t.cpu() for name, t in owner.trainer.ema.ema.state_dict().items()}
    digest = hashlib.sha256(b"".join(t.contiguous().view(-1).numpy().tobytes() for t in state.values()))
    print(digest.hexdigest())


def syncs(machine: Machine) -> list[Row]:
    """What makes the host wait in a step, as ``torch.cuda.set_sync_debug_mode`` sees it, with the place in the code."""
    rows: list[Row] = []
    for optimizer in ("SGD", "AdamW"):
        for scaler in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                trainer, guard = set_up(MODEL, optimizer, Path(folder), machine.device)
                if machine.cuda:
                    trainer.scaler = torch.amp.GradScaler("cuda", enabled=scaler)
                steps = {"stock": partial(BaseTrainer.optimizer_step, trainer), "guarded": trainer.optimizer_step}
                for name, step in steps.items():
                    trainer.optimizer.zero_grad()
                    backward(trainer)
                    places = waits(step, machine.cuda)
                    what = f"{optimizer} {'fp16 scaler' if scaler else 'fp32'} {name}"
                    rows.append({"what": what, "waits": len(places), "places": "; ".join(places)})
                guard.teardown(trainer)
    return rows


def waits(action: Callable[[], object], cuda: bool) -> list[str]:
    """Return the places at which an action makes the host wait for the GPU."""
    places: list[str] = []

    def note(message: Any, *_: Any, **__: Any) -> None:
        if "synchronizing" in str(message):
            frames = [f for f in traceback.extract_stack()[:-1] if "torch" not in Path(f.filename).parts]
            places.append(", ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames[:-4:-1]))

    shown, warnings.showwarning = warnings.showwarning, note
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = note
            if cuda:
                torch.cuda.synchronize()
                torch.cuda.set_sync_debug_mode("warn")
            action()
    finally:
        if cuda:
            torch.cuda.set_sync_debug_mode("default")
        warnings.showwarning = shown
    return places


def snapshots(machine: Machine) -> list[Row]:
    """Device time of a snapshot by CUDA events, host time to launch it, and the bytes that it pins."""
    rows = []
    for model in (MODEL, "yolo26x.yaml") if machine.cuda else (MODEL,):
        with tempfile.TemporaryDirectory() as folder:
            trainer, guard = set_up(model, "AdamW", Path(folder), machine.device)
            trainer.optimizer_step()
            live = adapter.TrainerAdapter(trainer).state.tensors()
            snapshot = Snapshot()
            for _ in range(3):
                snapshot.take(1, live, {})
                snapshot.finite()
            arena = HostArena(live)
            size = Snapshot.nbytes(live)
            numbers = {"ms on the device": snapshot.copy_seconds * 1e3, "GiB": size / GIB}
            rows.append(
                {"what": Path(model).stem, **numbers, "held / bytes": arena.nbytes / size, "pinned": arena.pinned}
            )
            guard.teardown(trainer)
    return rows


@contextmanager
def memory_of(machine: Machine) -> Iterator[Callable[[], Row]]:
    """Give what tells the peak since the start of the body, GiB; nan on a CPU."""
    if machine.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def told() -> Row:
        if not machine.cuda:
            return {"allocated GiB": None, "reserved GiB": None}
        peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return {"allocated GiB": peaks[0] / GIB, "reserved GiB": peaks[1] / GIB}

    yield told


def train(machine: Machine, guarded: bool, bad: Sequence[int] = (), **more: Any) -> tuple[Row, Any]:
    """Train with AMP, with NaN pixels in some batches; return the peak memory, and the guard's summary."""
    guard, numbers = GradSafe(report={"console": False, "plot": False}, forensics={"check_data": False}), [0]

    def spoil(trainer: Any) -> None:
        own = trainer.preprocess_batch

        def preprocess_batch(batch: Any) -> Any:
            batch = own(batch)
            numbers[0] += 1
            if numbers[0] in bad:  # in the labels: all passes of an investigation are made
                batch["bboxes"] = batch["bboxes"] * math.inf
            return batch

        trainer.preprocess_batch = preprocess_batch

    with tempfile.TemporaryDirectory() as folder, memory_of(machine) as told:
        owner = YOLO(MODEL)
        owner.add_callback("on_pretrain_routine_start", spoil)
        if guarded:
            guard.attach(owner)
        with adapter.without_integrations():
            owner.train(**machine.arguments(Path(folder), **{"amp": machine.cuda, "verbose": False, **more}))
        return told(), guard.summary if guarded else None


def memory(machine: Machine) -> list[Row]:
    """Peak memory of a healthy training, stock and guarded, and of one with an investigation."""
    rows = []
    for what, guarded, bad in (
        ("stock", False, ()),
        ("guarded", True, ()),
        ("guarded, three bad batches", True, (3, 4, 5)),
    ):
        peak, _ = train(machine, guarded, bad)
        rows.append({"what": what, **peak})
    return rows


def oom(machine: Machine) -> list[Row]:
    """A training that fills 80 % of what it may have, with bad batches: what does not fit must cost it nothing."""
    peak, _ = train(machine, guarded=False)
    if machine.cuda:
        total = torch.cuda.get_device_properties(0).total_memory / GIB
        torch.cuda.set_per_process_memory_fraction(min(1.0, peak["reserved GiB"] / 0.8 / total))
    try:
        seen, summary = train(machine, True, bad=(3, 4, 5))
    finally:
        if machine.cuda:
            torch.cuda.set_per_process_memory_fraction(1.0)
    causes = sorted({incident.culprit or "not looked into" for incident in summary.incidents})
    return [{"what": summary.headline, "steps": summary.steps.total, "causes": "; ".join(causes), **seen}]


def compiled(machine: Machine) -> list[Row]:
    """``compile=True`` with bad batches: replays are of the plain model, and the compiled one trains on."""
    peak, summary = train(machine, True, bad=(3, 4), compile=machine.cuda)
    return [{"what": summary.headline, "steps": summary.steps.total, **peak}]


def ranks(machine: Machine) -> list[Row]:
    """Two NCCL ranks, where there are two devices: all go on alike."""
    if not machine.cuda or torch.cuda.device_count() < 2:
        return [{"what": "there are no two devices"}]
    with tempfile.TemporaryDirectory() as folder:
        owner, guard = YOLO(MODEL), GradSafe(report={"console": False, "plot": False})
        guard.attach(owner)
        with adapter.without_integrations():
            owner.train(**machine.arguments(Path(folder), device="0,1", amp=True, verbose=False))
        return [{"what": guard.summary.headline}]


CHECKS = {check.__name__: check for check in (parity, syncs, snapshots, memory, oom, compiled, ranks)}


# One table of all -----------------------------------------------------------------------------------------------------


def collect(machine_: Machine, parts: Sequence[str]) -> str:
    """Put the checks' rows, and those of the tables in the other parts' logs, into one table and one JSON."""
    rows = [{"part": part, **row} for part in parts for row in _rows(machine_.out, part)]
    content = {"machine": machine(machine_.device), "rows": rows}
    (machine_.out / "gpu.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    lines = []
    for row in rows:
        rest = [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()]
        lines.append([row["part"], str(row.get("what", "")), ", ".join(rest[2:]).replace("|", "/")])
    return table("On this machine", ["part", "what", "measured"], lines) + f"\n{content['machine']}\n"


def _rows(out: Path, part: str) -> list[Row]:
    result, log = out / f"{part}.json", out / f"{part}.log"
    if result.is_file():
        return list(json.loads(result.read_text(encoding="utf-8")))
    rows: list[Row] = []
    header: list[str] = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []:
        if not line.startswith("|"):
            header = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not header:
            header = cells
        elif not set(line) <= set("|-: "):
            rows.append({"what": cells[0], **dict(zip(header[1:], cells[1:], strict=False))})
    return rows or [{"what": "passed" if log.is_file() else "did not run"}]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a check, or collect."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("check", choices=[*CHECKS, "arm", "collect"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--arm", nargs=3, help="precision, optimizer, and stock or guarded")
    parser.add_argument("--parts", nargs="+", default=list(CHECKS))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    here = Machine(options.device, options.out)
    if options.check == "arm":
        arm(here, *options.arm)
    elif options.check == "collect":
        print(collect(here, options.parts))
    else:
        rows = CHECKS[options.check](here)
        (options.out / f"{options.check}.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
