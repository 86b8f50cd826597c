"""Every way to train that Ultralytics offers, tried with the guard attached: bit for bit stock, or it says why not.

Two processes train the same list, one of them with one guard for all; see ``variants.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runs.variants import Variant, run_variants
from yolo_gradsafe.report import build

OUT_OF_MEMORY = """
import torch
def install(trainer):
    preprocess = trainer.preprocess_batch
    def preprocess_batch(batch):
        trainer.batches = getattr(trainer, "batches", 0) + 1
        if trainer.batches == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Planted.")
        return preprocess(batch)
    trainer.preprocess_batch = preprocess_batch
callbacks["on_train_start"] = [install]
"""
FROM_THE_KEYBOARD = """
def stop(trainer):
    if trainer.epoch == 1:
        raise KeyboardInterrupt
callbacks["on_train_batch_end"] = [stop]
"""
A_FILE_FOR_A_FOLDER = """
(folder / "no folder").mkdir()
(folder / "no folder" / "stability").write_text("a file")
args["exist_ok"] = True
"""
DISK_FULL = """
import resource
def full(trainer):
    if trainer.epoch in EPOCHS:  # while the guard writes; stock's own files have room
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
def room(trainer):
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
callbacks["on_train_batch_start"] = [full]
callbacks["on_train_epoch_end"] = [room]
callbacks["on_fit_epoch_end"] = [lambda trainer: trainer.epoch == 2 and full(trainer)]
callbacks["on_train_end"].append(room)
"""
NAN_PIXEL = """
def install(trainer):
    preprocess = trainer.preprocess_batch
    def preprocess_batch(batch):
        batch = preprocess(batch)
        trainer.batches = getattr(trainer, "batches", 0) + 1
        if trainer.batches == 2:
            batch["img"][0, 0, 0, 0] = float("nan")
        return batch
    trainer.preprocess_batch = preprocess_batch
callbacks["on_train_start"] = [install]
"""
WHAT_IS_THERE = """
run = folder / "sick"
more["before"] = sorted(p.name for p in run.rglob("*"))
"""
PARITY = {
    "plain": {},
    "two with one guard": {},
    "fewer layers": {"freeze": 2},
    "many sizes": {"multi_scale": 0.5},
    "no checkpoints": {"save": False},
    "no validation": {"val": False, "epochs": 3},
    "early stopping": {"patience": 1, "epochs": 4},
    "one class": {"single_cls": True},
    "workers": {"workers": 2},
    "channels last": {"channels_last": True},
    "accumulation": {"nbs": 8, "epochs": 3},
    "out of memory": {"code": OUT_OF_MEMORY},
    "interrupted": {"code": FROM_THE_KEYBOARD, "epochs": 3},
    "many data sets": {"code": "args['data'] = [args['data'], args['data']]"},
    "distilled": {"code": "args['distill_model'] = args['model'] = str(folder / 'plain' / 'weights' / 'last.pt')"},
    "no folder": {"code": A_FILE_FOR_A_FOLDER},
    "disk full": {"code": f"EPOCHS = (0, 1, 2)\n{DISK_FULL}"},
    "disk full once": {"code": f"EPOCHS = (0,)\n{DISK_FULL}"},
}
"""What has to come out like stock."""
LIKE_IT = {
    "rectangles": {"rect": True},
    "images in memory": {"cache": "ram"},
    "images on the disk": {"cache": "disk"},
    "half the data": {"fraction": 0.5},
    "checkpoints of epochs": {"save_period": 1},
    "cosine": {"cos_lr": True},
    "no AMP": {"amp": False},
    "mosaic to the end": {"close_mosaic": 0},
    "mosaic closed": {"close_mosaic": 1},
    "not deterministic": {"deterministic": False},
}
"""What has to as well, and touches the guard nowhere that is known."""
SICK = {
    "sick": {"code": NAN_PIXEL, "guard": {"forensics": {"archive": True}}, "epochs": 3},
    "sick again": {"code": WHAT_IS_THERE, "name": "sick", "exist_ok": True, "epochs": 1},
    "sick, no checkpoints": {"code": NAN_PIXEL, "save": False, "val": False},
    "sick, distilled": {"code": NAN_PIXEL + PARITY["distilled"]["code"]},
    "hours": {"time": 0.0005},
}


@pytest.fixture(scope="module")
def arms(drawn, made_once) -> tuple[dict[str, Variant], dict[str, Variant]]:
    """The list, stock and guarded; the guarded process has faults and a training by the clock after it."""

    def train(folder: Path) -> tuple[dict[str, Variant], dict[str, Variant]]:
        stock = run_variants(folder / "stock", drawn["detect"], PARITY, guarded=False)
        return stock, run_variants(folder / "guarded", drawn["detect"], {**PARITY, **SICK}, guarded=True)

    return made_once("variants", train)


@pytest.fixture(scope="module")
def arms_like_it(drawn, made_once) -> tuple[dict[str, Variant], dict[str, Variant]]:
    """The second list, stock and guarded."""

    def train(folder: Path) -> tuple[dict[str, Variant], dict[str, Variant]]:
        stock = run_variants(folder / "stock", drawn["detect"], LIKE_IT, guarded=False)
        return stock, run_variants(folder / "guarded", drawn["detect"], LIKE_IT, guarded=True)

    return made_once("variants-like-it", train)


@pytest.mark.parametrize("name", PARITY)
def test_it_is_stock_to_the_bit(arms, name):
    is_stock(arms[0][name], arms[1][name], name)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIKE_IT)
def test_so_is_what_is_like_it(arms_like_it, name):
    is_stock(arms_like_it[0][name], arms_like_it[1][name], name)
    has_records(arms_like_it[1][name], name)


def is_stock(stock: Variant, guarded: Variant, name: str) -> None:
    assert guarded.error == stock.error == ("KeyboardInterrupt: " if name == "interrupted" else "")
    assert guarded.digests == stock.digests
    assert guarded.losses() == stock.losses()
    assert stock.losses()
    assert "internal error" not in guarded.log


@pytest.mark.parametrize("name", [name for name in PARITY if name not in {"no folder", "disk full"}])
def test_it_has_its_records(arms, name):
    has_records(arms[1][name], name)


def has_records(variant: Variant, name: str) -> None:
    epochs = [int(row["epoch"]) for row in variant.steps]
    assert [int(row["step"]) for row in variant.steps] == list(range(1, len(epochs) + 1))
    assert epochs == sorted(epochs)
    assert epochs[-1] == (2 if name == "interrupted" else len(variant.results))
    assert variant.summary()["status"] == ("unfinished" if name == "interrupted" else "finished")
    assert not list(variant.run.rglob("*.part"))


def test_each_of_many_data_sets_has_its_report(arms):
    folder = arms[1]["many data sets"].run.parent
    assert len(list(folder.glob("*/stability.json"))) == 2
    assert [build(path.parent).steps.total for path in folder.glob("*/stability.json")] == [4, 4]


def test_an_epoch_that_ran_out_of_memory_is_trained_again_at_half_the_batch(arms):
    steps = [(int(row["epoch"]), int(row["batch"])) for row in arms[1]["out of memory"].steps]
    assert steps == [(1, 1), (1, 2), (1, 4), (2, 2), (2, 4)]


def test_an_interruption_is_told_in_the_report_and_is_no_failure(arms):
    summary = arms[1]["interrupted"].summary()
    assert summary["run"]["error"].startswith("KeyboardInterrupt")
    # Whether three steps were enough to learn anything differs from one processor to the next.
    assert summary["headline"].startswith(
        ("Healthy before it was interrupted: ", "Too early to tell before it was interrupted: ")
    )


def test_a_distillation_has_the_stages_of_its_student(arms):
    columns = {name for name in arms[1]["distilled"].steps[0] if name.startswith("norm/")}
    assert {"norm/backbone", "norm/head.box", "norm/head.class", "norm/projector.0"} == columns


def test_one_class_is_no_fault_of_the_labels(arms):
    assert "class_id" not in arms[1]["one class"].log


@pytest.mark.parametrize("name", ["no folder", "disk full", "disk full once"])
def test_what_cannot_be_written_is_told_once_and_trains_on(arms, name):
    variant = arms[1][name]
    assert variant.log.count("cannot be written, training continues") == 1
    assert ("could not be written to the records" in variant.log) == (name != "disk full once")
    assert (variant.run / "stability.json").is_file() == (name == "disk full once")
    assert ("the report could not be written" in variant.log) == (name != "disk full once")


def test_lines_wait_until_there_is_room(arms):
    assert [int(row["step"]) for row in arms[1]["disk full once"].steps] == [1, 2, 3, 4]


def test_a_second_run_in_a_folder_finds_nothing_of_the_first(arms):
    again = arms[1]["sick again"]
    before = again.more["before"]
    assert {"incidents.jsonl", "e001_b0002.jpg", "e001_b0002.npz", "layers.csv", "stability.json"} <= set(before)
    assert [(row["epoch"], row["step"]) for row in again.steps] == [("1", "1"), ("1", "2")]
    assert again.summary()["incidents"] == []
    files = {p.name for p in again.run.rglob("*")}
    assert files.isdisjoint({"incidents.jsonl", "e001_b0002.jpg", "e001_b0002.npz", "quarantine.txt"})
    assert {row.split(",")[0] for row in (again.run / "stability" / "layers.csv").read_text().splitlines()[1:]} == {"1"}
    assert list(json.loads((again.run / "stability" / "state.json").read_text())["epochs"]) == ["1"]


@pytest.mark.parametrize("name", ["sick, no checkpoints", "sick, distilled"])
def test_a_nan_batch_costs_its_own_step(arms, name):
    variant = arms[1][name]
    assert variant.error == ""
    summary = variant.summary()
    assert summary["health"] == "survived"
    assert [incident["kind"] for incident in summary["incidents"]] == ["bad_batch"]
    assert variant.steps[1]["verdict"] == "bad_batch"


def test_a_training_by_the_clock_is_recorded_to_its_end(arms):
    variant = arms[1]["hours"]
    assert variant.error == ""
    assert len(variant.steps) >= 2
    assert variant.summary()["status"] == "finished"
    assert variant.summary()["run"]["error"] == ""


@pytest.mark.slow
def test_a_compiled_model(drawn, tmp_path):
    """Compiled code may differ in its last bits from one process to the next, so it is not held against stock."""
    pytest.importorskip("torch._inductor")
    variants = {
        "healthy": {"compile": True},
        "sick": {"compile": True, "code": NAN_PIXEL, "epochs": 3},
    }
    found = run_variants(tmp_path, drawn["detect"], variants, guarded=True)
    assert [variant.error for variant in found.values()] == ["", ""]
    assert found["healthy"].summary()["health"] == "healthy"
    assert "norm/backbone" in found["healthy"].steps[0]
    assert [row["verdict"] == "bad_batch" for row in found["sick"].steps] == [False, True, False, False, False, False]
    assert "internal error" not in found["sick"].log


@pytest.mark.slow
def test_plots(drawn, tmp_path):
    found = run_variants(tmp_path, drawn["detect"], {"plots": {"plots": True}}, guarded=True)["plots"]
    assert found.error == ""
    assert (found.run / "stability.png").is_file()
    assert (found.run / "results.png").is_file()
