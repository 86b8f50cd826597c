"""Parts of a batch: whatever the task, every key keeps to its image."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_gradsafe.forensics.slicing import image_name, objects_of, pick

TASKS = ("detect", "pose", "obb", "segment", "segment-apart", "classify")


def collated(task: str, counts: list[int]) -> dict[str, object]:
    """Make a batch in which every value says which image, and which object of it, it belongs to."""
    images = len(counts)
    owners = torch.tensor([i for i, n in enumerate(counts) for _ in range(n)], dtype=torch.float32)
    marks = owners * 100 + torch.tensor([k for n in counts for k in range(n)], dtype=torch.float32)
    batch = {"img": torch.arange(images).float().view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone()}
    if task == "classify":
        return {**batch, "cls": torch.arange(images)}
    batch |= {
        "batch_idx": owners,
        "cls": marks.view(-1, 1),
        "bboxes": marks.view(-1, 1).expand(-1, 5 if task == "obb" else 4).clone(),
        "im_file": tuple(f"{i}.jpg" for i in range(images)),
        "ori_shape": [(i, i) for i in range(images)],
        "constant": torch.tensor(3.0),
        "words": "left alone",
    }
    if task == "pose":
        batch["keypoints"] = marks.view(-1, 1, 1).expand(-1, 4, 3).clone()
    if task == "segment":
        batch["masks"] = torch.arange(images).view(-1, 1, 1).expand(-1, 2, 2).clone()
        batch["sem_masks"] = batch["masks"].clone()
    if task == "segment-apart":
        batch["masks"] = marks.view(-1, 1, 1).expand(-1, 2, 2).clone()
    return batch


@st.composite
def cases(draw):
    counts = draw(st.lists(st.integers(0, 4), min_size=1, max_size=6))
    indices = draw(st.lists(st.integers(0, len(counts) - 1), min_size=1, max_size=8))
    return draw(st.sampled_from(TASKS)), counts, indices


@settings(max_examples=150, deadline=None)
@given(cases())
def test_every_key_keeps_to_its_image(case):
    task, counts, indices = case
    if task == "segment-apart" and sum(counts) == len(counts):
        return  # as many objects as images: nothing tells such masks from overlapping ones
    batch = collated(task, counts)
    before = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    part = pick(batch, indices)
    assert list(part) == list(batch)
    assert part["img"][:, 0, 0, 0].tolist() == indices
    for key, value in before.items():
        assert torch.equal(batch[key], value) if isinstance(value, torch.Tensor) else batch[key] == value
    if task == "classify":
        assert part["cls"].tolist() == indices
        return
    marks = [100 * i + k for i in indices for k in range(counts[i])]
    assert part["batch_idx"].tolist() == [new for new, i in enumerate(indices) for _ in range(counts[i])]
    assert part["batch_idx"].dtype == batch["batch_idx"].dtype
    assert part["cls"].shape == (len(marks), 1)
    for key in ("cls", "bboxes", "keypoints", *(["masks"] if task == "segment-apart" else [])):
        if key in part:
            assert part[key].shape[1:] == batch[key].shape[1:]
            assert part[key].reshape(len(marks), -1)[:, 0].tolist() == marks if marks else not len(part[key])
    for key in ("masks", "sem_masks"):
        if task == "segment":
            assert part[key][:, 0, 0].tolist() == indices
    assert part["im_file"] == tuple(f"{i}.jpg" for i in indices)
    assert part["ori_shape"] == [(i, i) for i in indices]
    assert part["words"] == "left alone"
    assert part["constant"] is batch["constant"]


def test_bytes_from_the_loader_are_picked_as_well():
    batch = {"img": torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1), "batch_idx": torch.tensor([[0.0], [2.0]])}
    part = pick(batch, [2])
    assert part["img"].dtype == torch.uint8
    assert part["batch_idx"].shape == (1, 1)
    assert objects_of(batch, 2).tolist() == [1]


def test_an_image_without_a_name_is_named_by_its_place():
    assert image_name({"img": torch.zeros(2, 1, 1, 1)}, 1) == "image 2 of the batch"
    assert image_name({"img": torch.zeros(1, 1, 1, 1), "im_file": ["a.jpg"]}, 0) == "a.jpg"
