"""What is kept of bad batches: named by epoch and batch, not too many, and never at the cost of the run."""

from __future__ import annotations

import torch

from yolo_gradsafe.forensics.archive import load_batch
from yolo_gradsafe.forensics.diagnosis import Diagnosis
from yolo_gradsafe.forensics.kept_batches import KeptBatches, archive_of, stem

BATCH = {"img": torch.full((2, 3, 32, 32), 0.2), "im_file": ("a.jpg", "b.jpg")}
CULPRIT = Diagnosis("image", ("b.jpg",), (1,), proven=True)


def test_a_batch_is_kept_under_its_epoch_and_number(tmp_path):
    kept = KeptBatches(tmp_path / "stability" / "batches", archive=True)
    saved = kept.keep(BATCH, 3, 12, CULPRIT, {0: "person"}, {"amp_scale": 1024.0})
    assert saved.picture == "stability/batches/e003_b0012.jpg"
    assert saved.archive == "stability/batches/e003_b0012.npz"
    assert saved.problem == ""
    assert (tmp_path / saved.picture).is_file()
    assert archive_of(tmp_path, 3, 12) == tmp_path / saved.archive
    batch, meta = load_batch(archive_of(tmp_path, 3, 12))
    assert torch.equal(batch["img"], BATCH["img"])
    assert batch["im_file"] == BATCH["im_file"]
    assert Diagnosis.from_record(meta["culprit"]).sentence() == CULPRIT.sentence()
    assert (meta["epoch"], meta["batch"], meta["amp_scale"]) == (3, 12, 1024.0)


def test_batches_themselves_are_kept_only_if_asked(tmp_path):
    assert KeptBatches(tmp_path).keep(BATCH, 1, 1, CULPRIT).archive == ""
    assert [p.name for p in tmp_path.iterdir()] == ["e001_b0001.jpg"]


def test_the_first_ones_are_kept_and_a_repeated_batch_is_written_anew(tmp_path):
    kept = KeptBatches(tmp_path, keep=2, archive=True)
    saved = [kept.keep(BATCH, 1, number, CULPRIT) for number in (1, 2, 3, 1)]
    assert [bool(s.picture and s.archive) for s in saved] == [True, True, False, True]
    assert len(list(tmp_path.iterdir())) == 4
    assert not KeptBatches(tmp_path / "none", keep=0).keep(BATCH, 1, 1, CULPRIT).picture


def test_a_new_run_in_an_old_folder_starts_anew_and_touches_nothing_else(tmp_path):
    KeptBatches(tmp_path).keep(BATCH, 1, 1, CULPRIT)
    (tmp_path / "mine.jpg").write_bytes(b"")
    KeptBatches(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    KeptBatches(tmp_path).remove_after(0)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.jpg"]


def test_ranks_do_not_overwrite_one_another(tmp_path):
    folder = tmp_path / "stability" / "batches"
    assert [stem(1, 2, rank) for rank in (-1, 0, 1)] == ["e001_b0002", "e001_b0002", "e001_b0002_r1"]
    KeptBatches(folder, archive=True, rank=1).keep(BATCH, 1, 2, CULPRIT)
    assert archive_of(tmp_path, 1, 2).name == "e001_b0002_r1.npz"


def test_it_never_raises(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    saved = KeptBatches(tmp_path / "file" / "batches", archive=True).keep(BATCH, 1, 1, CULPRIT)
    assert (saved.picture, saved.archive) == ("", "")
    assert "no picture" in saved.problem
    assert "no archive" in saved.problem
    assert "no picture" in KeptBatches(tmp_path).keep({}, 1, 1, CULPRIT).problem
