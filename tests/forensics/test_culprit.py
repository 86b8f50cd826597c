"""What a culprit says of itself."""

from __future__ import annotations

import pytest

from yolo_gradsafe.forensics.culprit import Culprit

ONE, TWO = ("/data/000000000036.jpg",), ("/data/000000000036.jpg", "/data/b.jpg")


@pytest.mark.parametrize(
    ("culprit", "sentence"),
    [
        (Culprit("pixels", ONE, detail="3 NaN or Inf pixels"), "000000000036.jpg holds 3 NaN or Inf pixels"),
        (Culprit("pixels", TWO), "000000000036.jpg and 1 more hold NaN or Inf pixels"),
        (
            Culprit("labels", ONE, detail="the box of object 2 holds NaN or Inf"),
            "the labels of 000000000036.jpg are at fault: the box of object 2 holds NaN or Inf",
        ),
        (Culprit("weights", layer="model.3.conv", tensors=("a",)), "weights of model.3.conv are not finite"),
        (Culprit("weights", layer="model.3", tensors=("a", "b")), "weights of model.3 are not finite (2 tensors)"),
        (
            Culprit("precision", layer="model.22.cv3", magnitude=7.1e5, precision="fp16"),
            "fp16 overflow in model.22.cv3 (max 7.1e5, fp16 ends at 65504); fp32 is finite",
        ),
        (
            Culprit("precision", tensors=("w",), layer="model.3", magnitude=1e9, precision="fp16"),
            "fp16 overflow of the gradients at the output of model.3 (max 1.0e9, fp16 ends at 65504); fp32 is finite",
        ),
        (Culprit("precision", precision="bf16"), "bf16 overflow in the loss; fp32 is finite"),
        (
            Culprit("activations", ONE, layer="model.3", magnitude=3e38),
            "the output of model.3 is not finite in fp32 either (largest finite value 3.0e38) with 000000000036.jpg",
        ),
        (
            Culprit("loss", ONE, term="rle_loss"),
            "rle_loss is not finite with 000000000036.jpg although all outputs of the model are",
        ),
        (
            Culprit("gradients", layer="model.3", tensors=("w",)),
            "the gradients are not finite although the loss is, first at the output of model.3",
        ),
        (
            Culprit("outlier", ONE, term="cls_loss", detail="40 times that of the others"),
            "cls_loss is far above its usual value with 000000000036.jpg: 40 times that of the others",
        ),
        (Culprit("transient"), "the batch does not fail again: the fault was transient"),
        (Culprit("unknown"), "the cause is not known"),
        (
            Culprit("pixels", ONE, composite=("mosaic", "mixup")),
            "000000000036.jpg holds NaN or Inf pixels (under mosaic or mixup: the first of several images)",
        ),
    ],
)
def test_sentences(culprit, sentence):
    assert culprit.sentence() == sentence
    assert Culprit.from_record(culprit.record()).sentence() == sentence
