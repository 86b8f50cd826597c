"""What is read from what a training left."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from yolo_gradsafe.drill.outcome import (
    Outcome,
    epochs_without_a_step,
    inspect_checkpoint,
    read_incidents,
    read_nan_rows,
    read_verdicts,
)
from yolo_gradsafe.drill.watch import Watch
from yolo_gradsafe.telemetry.schema import RunPaths


def test_checkpoints(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    state = {"state": {0: {"momentum_buffer": torch.ones(2)}}}
    path = tmp_path / "last.pt"
    torch.save({"model": None, "ema": model, "optimizer": state}, path)
    assert inspect_checkpoint(path) == 0
    model[0].weight.data[0, 0] = float("nan")
    state["state"][0]["momentum_buffer"][0] = float("inf")
    torch.save({"model": None, "ema": model, "optimizer": state}, path)
    assert inspect_checkpoint(path) == 2
    path.write_bytes(b"half a file")
    assert inspect_checkpoint(path) == -1
    assert inspect_checkpoint(tmp_path / "missing.pt") == -1


def test_rows_of_results(tmp_path):
    path = tmp_path / "results.csv"
    assert read_nan_rows(path) == 0
    path.write_text("epoch,train/box_loss,gradsafe/grad_norm\n1,2.5,nan\n2,nan,1\n3,inf,1\n4,1,1\n")
    assert read_nan_rows(path) == 3, "a column of the guard's own counts as well"
    assert read_nan_rows(path, but={1, 2}) == 1


def test_an_epoch_in_which_every_step_was_left_out_has_no_loss_to_show(tmp_path):
    assert epochs_without_a_step(tmp_path) == set()
    paths = RunPaths(tmp_path)
    paths.folder.mkdir()
    paths.steps.write_text("epoch,step,clip_scale\n1,1,1.0\n1,2,0\n2,3,0\n2,4,0.0\n3,5,0.2\n")
    assert epochs_without_a_step(tmp_path) == {2}


def test_records_of_the_guard(tmp_path):
    assert read_verdicts(tmp_path) == read_incidents(tmp_path) == {}
    paths = RunPaths(tmp_path)
    paths.folder.mkdir()
    paths.steps.write_text("step,verdict\n1,ok\n2,bad_batch\n3,ok\n")
    paths.incidents.write_text('{"kind": "rollback"}\n{"kind": "bad_batch"}\n{"kind": "rollback"}\n')
    assert read_verdicts(tmp_path) == {"ok": 2, "bad_batch": 1}
    assert Outcome(incidents=read_incidents(tmp_path)).rollbacks == 2


def test_lost_steps_count_what_was_left_out_and_what_was_undone():
    clean = Outcome(applied=126)
    assert Outcome(applied=126).lost_to(clean) == 0
    assert Outcome(applied=120, rolled_back=5).lost_to(clean) == 11
    assert Outcome(applied=128).lost_to(clean) == 0


def test_a_save_of_what_float16_cannot_hold_is_spoiled():
    ema = nn.BatchNorm1d(2)
    trainer = SimpleNamespace(
        epoch=0,
        model=nn.Linear(1, 1),
        optimizer=torch.optim.SGD([nn.Parameter(torch.ones(1))]),
        ema=SimpleNamespace(ema=ema, updates=0),
    )
    watch = Watch()
    watch.callbacks["on_pretrain_routine_end"](trainer)
    for value, count in ((65504.0, 0), (65600.0, 1), (float("nan"), 2), (0.0, 2)):
        ema.running_var[0] = value
        watch.callbacks["on_model_save"](trainer)
        assert watch.spoiled_saves == count


def test_the_watch_counts_calls_of_the_optimizer_and_steps_undone():
    weight = nn.Parameter(torch.ones(1))
    ema = SimpleNamespace(updates=0)
    trainer = SimpleNamespace(epoch=0, optimizer=torch.optim.SGD([weight], lr=0.1), ema=ema)
    watch = Watch()
    watch.callbacks["on_pretrain_routine_end"](trainer)
    for epoch, updates in ((0, [1, 2, 2, 3]), (1, [4, 1, 2]), (1, [3])):
        trainer.epoch = epoch
        watch.callbacks["on_train_epoch_start"](trainer)
        for count in updates:
            watch.callbacks["on_train_batch_start"](trainer)
            if count == ema.updates + 1:
                trainer.optimizer.step()
            ema.updates = count
            watch.callbacks["on_train_batch_end"](trainer)
    assert (watch.applied, watch.rolled_back, watch.epochs) == (6, 3, [1, 2, 2])
