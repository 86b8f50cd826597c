"""The diagnosis on real models and real batches: a planted fault is named, and nothing is left behind."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.arm import DETECT, POSE
from tests.forensics.lab import MODELS, digest_batch, fingerprint, planted
from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.adapter.replay import Replay, composed, plain_batch
from yolo_gradsafe.forensics.case import Surroundings
from yolo_gradsafe.forensics.diagnose import Cap, diagnose
from yolo_gradsafe.forensics.diagnosis import Diagnosis

LAYER = "model.4.cv1.conv"
OVERFLOW = 3e6


def conv(model: nn.Module, name: str = LAYER) -> torch.Tensor:
    return model.get_submodule(name).weight


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("image", [0, 5])
def test_a_nan_pixel_is_named_by_its_image(labs, model, image):
    lab = labs(model)
    culprit = diagnose(Replay(lab.model), lab.with_nan_pixel(image))
    assert culprit.cause == "preprocessing", "an 8-bit file cannot hold one"
    assert culprit.images == (lab.batch["im_file"][image],)
    assert culprit.indices == (image,)
    assert culprit.proven
    assert culprit.sentence().endswith(".jpg holds 1 NaN or Inf pixel although the file is fine")


def test_a_nan_in_the_cached_copy_of_an_image_is_in_its_file(labs, tmp_path):
    lab = labs(DETECT)
    batch = lab.with_nan_pixel(0)
    file = tmp_path / "a.jpg"
    file.write_bytes(Path(batch["im_file"][0]).read_bytes())
    np.save(file.with_suffix(".npy"), np.full((4, 4, 3), np.nan, np.float32))
    batch["im_file"] = [str(file), *batch["im_file"][1:]]
    found = diagnose(Replay(lab.model), batch)
    assert (found.cause, found.images) == ("image", (str(file),))
    assert found.sentence() == "a.jpg holds 1 NaN or Inf pixel in a.npy, the copy of it that Ultralytics cached"


def test_a_nan_keypoint_is_named_by_its_image(labs):
    lab = labs(POSE)
    batch = lab.copy()
    batch["keypoints"][6, 1, 0] = float("nan")
    batch["keypoints"][6, 1, 2] = 2
    image = int(batch["batch_idx"][6])
    culprit = diagnose(Replay(lab.model), batch)
    assert (culprit.cause, culprit.images) == ("label", (batch["im_file"][image],))
    assert culprit.proven
    assert "the keypoints of object" in culprit.sentence()
    assert not culprit.notes


def test_a_nan_box_is_noted_although_the_loss_passes_over_it(labs):
    lab = labs(DETECT)
    batch = lab.copy()
    batch["bboxes"][6, 2] = float("nan")
    culprit = diagnose(Replay(lab.model), batch)
    assert culprit.cause == "transient"
    assert "the box of object" in culprit.notes[0]


def test_a_class_that_is_no_number_is_named_although_the_loss_cannot_be_computed(labs):
    lab = labs(DETECT)
    batch = lab.copy()
    batch["cls"][4] = float("nan")
    culprit = diagnose(Replay(lab.model), batch)
    assert (culprit.cause, culprit.indices) == ("label", (int(batch["batch_idx"][4]),))
    assert "the class of object" in culprit.sentence()


@pytest.mark.parametrize("model", MODELS)
def test_an_fp16_overflow_is_named_by_its_layer_and_called_precision(labs, model):
    lab = labs(model)
    with planted(conv(lab.model), lambda w: w.mul_(OVERFLOW)):
        assert Replay(lab.model).run(lab.batch).finite
        culprit = diagnose(Replay(lab.model, "fp16"), lab.batch)
    assert (culprit.cause, culprit.layer, culprit.precision) == ("precision", LAYER, "fp16")
    assert culprit.magnitude > 65504
    assert culprit.images == ()
    assert not culprit.proven
    assert culprit.sentence().startswith(f"fp16 overflow in {LAYER} (max ")


def test_an_overflow_that_only_one_image_causes_names_it_but_does_not_count_it(labs):
    lab = labs(DETECT)
    batch = lab.copy()
    batch["img"][3] *= 3000
    name = "model.0.conv"
    with planted(conv(lab.model, name), lambda w: w.mul_(200)):
        culprit = diagnose(Replay(lab.model, "fp16"), batch)
    assert (culprit.cause, culprit.layer, culprit.indices) == ("precision", name, (3,))
    assert not culprit.proven
    assert f" with {batch['im_file'][3].rsplit('/')[-1]}" in culprit.sentence()


def test_gradients_that_overflow_at_the_loss_scale_are_precision(labs):
    lab = labs(DETECT)
    replay = Replay(lab.model, "fp16", amp_scale=2.0**40)
    culprit = diagnose(replay, lab.batch, gradients_bad=True, cap=Cap(evaluations=5))
    assert culprit.cause == "precision"
    assert culprit.backward
    assert culprit.layer.startswith("model.")
    assert "of the gradients" in culprit.sentence()


@pytest.mark.parametrize("model", MODELS)
def test_a_nan_weight_is_called_weights(labs, model):
    lab = labs(model)
    with planted(conv(lab.model), lambda w: w[0, 0, 0, 0].fill_(float("nan"))):
        culprit = diagnose(Replay(lab.model), lab.batch)
    assert (culprit.cause, culprit.layer, culprit.tensors) == ("weights", LAYER, (f"{LAYER}.weight",))
    assert culprit.images == ()


def test_an_overflow_in_fp32_too_is_named_by_its_layer(labs):
    lab = labs(DETECT)
    with planted(conv(lab.model), lambda w: w.fill_(3e38)):
        culprit = diagnose(Replay(lab.model, "fp16"), lab.batch)
    assert (culprit.cause, culprit.layer, culprit.precision) == ("activations", LAYER, "fp32")


def test_a_loss_term_that_is_not_finite_names_its_image(labs, monkeypatch):
    """A fault of the loss itself: it is not finite for one image although all outputs of the model are."""
    lab = labs(DETECT)
    Replay(lab.model).run(lab.batch)
    lab.model.criterion = lab.model.init_criterion()
    own = type(lab.model.criterion).__call__
    width = lab.batch["bboxes"][7, 2]

    def call(self, preds, batch):
        loss, items = own(self, preds, batch)
        if not bool((batch["bboxes"][:, 2] == width).any()):
            return loss, items
        # Inf only backward: sqrt at 0, as of a degenerate box.
        return loss + (preds["one2many"]["boxes"].sum() * 0).sqrt(), items

    if "one2many" not in str(vars(lab.model.criterion).keys()):
        pytest.skip("this version's newest head is not end-to-end")
    monkeypatch.setattr(type(lab.model.criterion), "__call__", call)
    culprit = diagnose(Replay(lab.model), lab.batch, gradients_bad=True)
    assert (culprit.cause, culprit.backward) == ("loss", True)
    assert culprit.indices == (int(lab.batch["batch_idx"][7]),)
    assert culprit.source.startswith("test_diagnose.py:")
    assert "torch.sqrt" in culprit.operation or "Tensor.sqrt" in culprit.operation
    assert "sqrt()" in culprit.source_text


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("gradients_bad", [False, True])
def test_a_healthy_batch_is_transient(labs, precision, gradients_bad):
    culprit = diagnose(Replay(labs(DETECT).model, precision), labs(DETECT).batch, gradients_bad=gradients_bad)
    assert culprit.cause == "transient"
    assert culprit.images == ()
    assert not culprit.notes


def test_an_outlying_term_is_named(labs):
    lab = labs(DETECT)
    replay = Replay(lab.model, names=tuple(lab.trainer.loss_names))
    items = replay.run(lab.batch).items
    medians = {name: value / (20 if name == "cls_loss" else 1) for name, value in items.items()}
    culprit = diagnose(replay, lab.batch, outlier=True, around=Surroundings(medians=medians))
    assert (culprit.cause, culprit.term) == ("outlier", "cls_loss")
    assert not culprit.proven


def test_a_compiled_model_is_never_hooked(labs, monkeypatch):
    lab = labs(DETECT)
    hook, layers = nn.Module.register_forward_hook, set(lab.model.modules())

    def refuse(module, *rest, **options):
        assert module not in layers, "hooked"  # the assigner of the loss is none of them
        return hook(module, *rest, **options)

    monkeypatch.setattr(nn.Module, "register_forward_hook", refuse)
    with planted(conv(lab.model), lambda w: w.mul_(OVERFLOW)):
        culprit = diagnose(Replay(lab.model, "fp16", compiled=True), lab.batch)
    assert (culprit.cause, culprit.layer) == ("precision", "")
    assert any("compiled" in note for note in culprit.notes)


def test_under_mosaic_an_image_is_proven_only_when_it_fails_alone(labs):
    lab = labs(DETECT, mosaic=1.0)
    assert composed(lab.trainer) == ("mosaic",)
    batch = lab.with_nan_pixel(2)
    file = batch["im_file"][2]
    assert not diagnose(Replay(lab.model), batch, around=Surroundings(composite=("mosaic",))).proven
    sound = diagnose(
        Replay(lab.model),
        batch,
        around=Surroundings(composite=("mosaic",), plain=lambda image: plain_batch(lab.trainer, [image])),
    )
    assert (sound.images, sound.proven) == ((file,), False)
    assert "used in mosaic as the first of several images" in sound.sentence()

    def poisonous(image):
        alone = plain_batch(lab.trainer, [image])
        alone["img"][0, 0, 0, 0] = float("nan")
        return alone

    guilty = diagnose(Replay(lab.model), batch, around=Surroundings(composite=("mosaic",), plain=poisonous))
    assert (guilty.images, guilty.proven, guilty.composite) == ((file,), True, ("mosaic",))
    assert "it also fails alone" in guilty.sentence()


def test_an_image_alone_is_loaded_as_it_is_in_its_file(labs):
    lab = labs(DETECT, mosaic=1.0)
    file = lab.batch["im_file"][0]
    first, second = plain_batch(lab.trainer, [file]), plain_batch(lab.trainer, [file])
    assert first["im_file"] == (file,)
    assert len(first["img"]) == 1
    assert torch.equal(first["img"], second["img"])
    assert plain_batch(lab.trainer, ["nowhere.jpg"]) is None
    assert composed(lab.trainer) == ("mosaic",)
    assert lab.trainer.train_loader.dataset.augment


def test_what_the_loader_composes_ends_with_mosaic(labs):
    assert composed(labs(DETECT).trainer) == ()
    assert composed(labs(DETECT, mosaic=0.0, mixup=0.5, cutmix=0.2).trainer) == ("mixup", "cutmix")
    assert composed(object()) == ()


def test_it_stops_at_its_cap_and_says_so(labs):
    lab = labs(DETECT)
    with planted(conv(lab.model), lambda w: w.mul_(OVERFLOW)):
        culprit = diagnose(Replay(lab.model, "fp16"), lab.batch, cap=Cap(evaluations=2))
    assert culprit.cause == "precision"
    assert any("stopped after 2 passes" in note for note in culprit.notes)
    assert diagnose(Replay(lab.model), lab.batch, cap=Cap(seconds=0)).cause == "unknown"


@pytest.mark.parametrize("batch", [{}, {"img": torch.zeros(2, 3, 64, 64)}, {"img": None}])
def test_it_never_raises(labs, batch):
    culprit = diagnose(Replay(labs(DETECT).model), batch)
    assert culprit.cause == "unknown"
    assert culprit.notes


def test_what_was_put_on_the_trainer_is_named_and_not_run_again(labs):
    trainer, seen, calls = copy.copy(labs(DETECT).trainer), [], []
    live = TrainerAdapter(trainer)
    live.watch_batches(seen.append, seen.append)
    assert live.preprocess_hook() is None
    guarded = trainer.preprocess_batch

    def mine(batch):
        calls.append(1)
        return guarded(batch)

    trainer.preprocess_batch = mine
    assert live.preprocess(next(iter(trainer.train_loader)))["img"].is_floating_point()
    assert (seen, calls) == ([], []), "it may count its calls"
    file, line, name = live.preprocess_hook()
    assert (file, name) == (__file__, "mine")
    assert line > 0


def test_a_negative_loss_is_no_evidence_against_the_weights(labs):
    lab = labs(DETECT)
    own = lab.model.init_criterion()

    def call(preds, batch):
        loss, items = own(preds, batch)
        likelihood = preds["one2many"]["scores"]
        return torch.cat([loss, (likelihood.sum() + (likelihood * 0).sqrt().sum()).view(1)]), items

    lab.model.criterion, kept = call, getattr(lab.model, "criterion", None)
    try:
        around = Surroundings(trusted=nullcontext, others=lambda: lab.batch)
        assert diagnose(Replay(lab.model), lab.batch, gradients_bad=True, around=around).cause == "loss"
    finally:
        lab.model.criterion = kept


FAULTS = {
    "none": ("fp32", None, {}),
    "pixel": ("fp32", lambda batch, _: batch["img"][1, 0, 0, 0].fill_(float("nan")), {}),
    "keypoint": ("fp32", lambda batch, _: batch["keypoints"][3, 0].fill_(float("nan")), {}),
    "overflow": ("fp16", lambda _, model: conv(model).data.mul_(OVERFLOW), {}),
    "weights": ("fp32", lambda _, model: conv(model).data.view(-1)[0].fill_(float("nan")), {}),
    "activations": ("fp32", lambda _, model: conv(model).data.fill_(3e38), {}),
    "gradients": ("fp16", None, {"gradients_bad": True}),
    "outlier": ("fp32", None, {"outlier": True}),
    "broken": ("fp32", lambda batch, _: batch.pop("bboxes"), {}),
}


@pytest.mark.parametrize(
    ("model", "fault"), [(m, f) for m in MODELS for f in FAULTS if m in (DETECT, POSE) or f == "pixel"]
)
def test_nothing_is_left_behind(labs, model, fault):
    """Weights, statistics, gradients, attributes, hooks and random states are the same bits, in the same tensors."""
    precision, change, arguments = FAULTS[fault]
    if fault == "keypoint" and model != POSE:
        pytest.skip("no keypoints")
    lab = labs(model)
    lab.model(lab.batch)[0].sum().backward()  # as in training: there are gradients, and a criterion
    batch, kept = lab.copy(), conv(lab.model).detach().clone()
    try:
        if change:
            change(batch, lab.model)
        state, content, drawn = fingerprint(lab.model), digest_batch(batch), random.getstate()
        replay = Replay(lab.model, precision, amp_scale=2.0**40)
        diagnose(
            replay, batch,
            around=Surroundings(composite=("mosaic",), plain=lambda image: plain_batch(lab.trainer, [image])),
            cap=Cap(evaluations=5 if fault == "gradients" else 12), **arguments,
        )  # fmt: skip
        after = fingerprint(lab.model)
        for part in state:
            assert after[part] == state[part], part
        assert digest_batch(batch) == content
        assert random.getstate() == drawn
    finally:
        conv(lab.model).data.copy_(kept)
        lab.trainer.optimizer.zero_grad()


def test_the_state_of_the_criterion_is_put_back(labs):
    lab = labs(DETECT)
    Replay(lab.model).run(lab.batch)
    lab.model(lab.batch)
    criterion = lab.model.criterion
    before = {key: value for key, value in vars(criterion).items()}
    diagnose(Replay(lab.model), lab.with_nan_pixel(0))
    assert lab.model.criterion is criterion
    assert vars(criterion) == before


def test_a_culprit_survives_json():
    culprit = Diagnosis("precision", ("a.jpg",), (2,), ("mosaic",), layer="model.3", precision="bf16", notes=("x",))
    record = json.loads(json.dumps(culprit.record()))
    back = Diagnosis.from_record(record)
    assert record["sentence"] == culprit.sentence()
    assert back.sentence() == culprit.sentence()
    assert dataclasses.replace(back, magnitude=0) == dataclasses.replace(culprit, magnitude=0)
    with pytest.raises(ValueError, match="unknown cause 'gremlins'"):
        Diagnosis.from_record({"cause": "gremlins"})
