"""The quarantine: what counts, what is put in the place of an image, and what a resumed run knows of it."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.arm import DETECT, POSE
from tests.forensics.lab import digest_batch
from tests.forensics.test_slicing import collated
from yolo_gradsafe.adapter.replay import Replay
from yolo_gradsafe.forensics.diagnosis import Diagnosis
from yolo_gradsafe.forensics.quarantine import Quarantine
from yolo_gradsafe.telemetry.schema import Cause


def guilty(*images: str, proven: bool = True, cause: str = "image") -> Diagnosis:
    return Diagnosis(Cause(cause), images, proven=proven)


def holding(*images: str) -> Quarantine:
    quarantine = Quarantine(None, offences=1)
    quarantine.record_offence(guilty(*images))
    return quarantine


def test_an_image_is_quarantined_at_its_second_proven_offence(tmp_path):
    path = tmp_path / "stability" / "quarantine.txt"
    quarantine = Quarantine(path)
    assert quarantine.record_offence(guilty("/a b/ü.jpg")) == []
    assert quarantine.record_offence(guilty("/a b/ü.jpg", proven=False)) == []
    assert quarantine.record_offence(guilty("other.jpg")) == []
    assert not path.exists()
    assert quarantine.record_offence(guilty("/a b/ü.jpg", "/a b/ü.jpg")) == ["/a b/ü.jpg"]
    assert quarantine.record_offence(guilty("/a b/ü.jpg")) == []
    assert quarantine.record_offence(guilty("other.jpg")) == ["other.jpg"]
    assert path.read_text(encoding="utf-8") == "/a b/ü.jpg\nother.jpg\n"
    assert quarantine.images == ["/a b/ü.jpg", "other.jpg"]
    assert [p.name for p in path.parent.iterdir()] == ["quarantine.txt"]


@pytest.mark.parametrize("cause", ["loss", "activations", "preprocessing"])
def test_an_image_that_trains_well_in_between_is_not_poisonous(cause):
    quarantine = Quarantine(None)
    for _ in range(3):
        assert quarantine.record_offence(guilty("a.jpg", cause=cause)) == []
        assert quarantine.suspects == {"a.jpg"}
        quarantine.count_healthy_step()
        quarantine.acquit(["a.jpg", "b.jpg"])
        assert quarantine.suspects == set()
    quarantine.record_offence(guilty("a.jpg", cause=cause))
    quarantine.count_healthy_step()
    assert quarantine.record_offence(guilty("a.jpg", cause=cause)) == ["a.jpg"], "it fails each time"


def test_while_every_batch_is_bad_no_image_offends_twice():
    """A user's own code that fails on all images says nothing against any of them."""
    quarantine = Quarantine(None)
    for _ in range(3):
        assert quarantine.record_offence(guilty("a.jpg", cause="preprocessing")) == []
    again = Quarantine(None)
    again.load_state_dict(json.loads(json.dumps(quarantine.state_dict())))
    assert again.record_offence(guilty("a.jpg", cause="preprocessing")) == []
    assert again.record_offence(guilty("a.jpg", cause="image")) == ["a.jpg"], "a bad file is one at any time"


@pytest.mark.parametrize("cause", ["image", "label"])
def test_a_bad_file_stays_bad_where_a_step_with_it_was_healthy(cause):
    quarantine = Quarantine(None)
    quarantine.record_offence(guilty("a.jpg", cause=cause))
    assert quarantine.suspects == set()
    quarantine.acquit(["a.jpg"])
    again = Quarantine(None)
    again.load_state_dict(json.loads(json.dumps(quarantine.state_dict())))
    again.acquit(["a.jpg"])
    assert again.record_offence(guilty("a.jpg", cause=cause)) == ["a.jpg"]


def test_a_name_with_a_line_break_stays_one_line(tmp_path):
    quarantine = Quarantine(tmp_path / "q.txt", offences=1)
    quarantine.record_offence(guilty("a\nb.jpg", "\udcff.jpg"))
    assert (tmp_path / "q.txt").read_bytes() == b"a\\nb.jpg\n\xff.jpg\n"


def test_a_batch_without_its_images_is_left_as_it_is():
    batch = collated("pose", [1, 2])
    kept = dict(batch)
    assert Quarantine(None).apply(batch) == []
    assert holding("elsewhere.jpg").apply(batch) == []
    assert all(batch[key] is kept[key] for key in kept)
    assert holding("0.jpg").apply({"img": torch.zeros(2, 3, 4, 4), "cls": torch.zeros(2)}) == []


@given(
    st.sampled_from(["detect", "pose", "obb", "segment"]),
    st.lists(st.integers(0, 3), min_size=2, max_size=6),
    st.data(),
)
def test_a_stand_in_comes_with_all_that_is_its_own(task, counts, data):
    out = data.draw(st.sets(st.integers(0, len(counts) - 1), min_size=1, max_size=len(counts) - 1))
    batch = collated(task, counts)
    replaced = holding(*(f"{i}.jpg" for i in out)).apply(batch)
    assert replaced == [f"{i}.jpg" for i in sorted(out)]
    shown = [int(value) for value in batch["img"][:, 0, 0, 0]]
    assert len(shown) == len(counts)
    assert not set(shown) & out
    assert all(shown[i] == i for i in range(len(counts)) if i not in out)
    assert batch["im_file"] == tuple(f"{i}.jpg" for i in shown)
    assert batch["batch_idx"].tolist() == [new for new, i in enumerate(shown) for _ in range(counts[i])]
    assert batch["cls"].view(-1).tolist() == [100 * i + k for i in shown for k in range(counts[i])]


@pytest.mark.parametrize("model", [DETECT, POSE])
def test_a_real_batch_trains_on_without_the_poisonous_image(labs, model):
    lab = labs(model)
    batch = lab.with_nan_pixel(2)
    replay = Replay(lab.model)
    assert not replay.run(batch).finite
    holding(batch["im_file"][2]).apply(batch)
    assert replay.run(batch, backward=True).finite
    before = digest_batch(batch)
    holding("nowhere.jpg").apply(batch)
    assert digest_batch(batch) == before


@pytest.mark.parametrize("model", [DETECT, POSE])
def test_a_batch_of_nothing_else_becomes_grey_and_trains(labs, model):
    lab = labs(model)
    batch = lab.with_nan_pixel(2)
    names, shape = batch["im_file"], batch["img"].shape
    assert holding(*names).apply(batch) == list(names)
    assert batch["img"].shape == shape
    assert batch["img"].unique().tolist() == pytest.approx([114 / 255])
    assert (len(batch["cls"]), len(batch["bboxes"]), len(batch["batch_idx"])) == (0, 0, 0)
    assert batch["im_file"] == names
    assert Replay(lab.model).run(batch, backward=True).finite


def test_grey_is_grey_in_bytes_too_and_masks_are_empty():
    batch = {**collated("segment", [1, 2]), "img": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}
    batch["masks"] += 1
    holding("0.jpg", "1.jpg").apply(batch)
    assert batch["img"].unique().tolist() == [114]
    assert not batch["masks"].any()


def test_a_resumed_run_goes_on_counting():
    quarantine = Quarantine(None)
    quarantine.record_offence(guilty("a.jpg", "b.jpg"))
    quarantine.record_offence(guilty("a.jpg"))
    again = Quarantine(None)
    again.load_state_dict(json.loads(json.dumps(quarantine.state_dict())))
    assert again.images == ["a.jpg"]
    assert again.record_offence(guilty("b.jpg")) == ["b.jpg"]
    with pytest.raises(KeyError):
        again.load_state_dict({})
