"""What a culprit says of itself."""

from __future__ import annotations

import pytest

from yolo_gradsafe.forensics.diagnosis import Diagnosis

ONE, TWO = ("/data/000000000036.jpg",), ("/data/000000000036.jpg", "/data/b.jpg")


@pytest.mark.parametrize(
    ("culprit", "sentence"),
    [
        (Diagnosis("image", ONE, detail="3 NaN or Inf pixels"), "000000000036.jpg holds 3 NaN or Inf pixels"),
        (Diagnosis("image", TWO), "000000000036.jpg and 1 more hold NaN or Inf pixels"),
        (
            Diagnosis("label", ONE, detail="the box of object 2 holds NaN or Inf"),
            "the labels of 000000000036.jpg are wrong: the box of object 2 holds NaN or Inf",
        ),
        (
            Diagnosis("weights", layer="model.3.conv", tensors=("a",), tensor_count=1),
            "weights of model.3.conv are not finite",
        ),
        (
            Diagnosis("weights", layer="model.3", tensors=("a", "b"), tensor_count=2),
            "weights of model.3 are not finite (2 tensors)",
        ),
        (
            Diagnosis("precision", layer="model.22.cv3", magnitude=7.1e5, precision="fp16"),
            "fp16 overflow in model.22.cv3 (max 7.1e5, fp16 ends at 65504); fp32 is finite",
        ),
        (
            Diagnosis("precision", backward=True, layer="model.3", magnitude=1e9, precision="fp16"),
            "fp16 overflow of the gradients at model.3 (max 1.0e9, fp16 ends at 65504); fp32 is finite",
        ),
        (Diagnosis("precision", precision="bf16"), "bf16 overflow in the loss; fp32 is finite"),
        (
            Diagnosis("activations", ONE, layer="model.3", magnitude=3e38),
            "the output of model.3 is not finite in fp32 either (largest finite value 3.0e38) with 000000000036.jpg",
        ),
        (
            Diagnosis("loss", ONE, term="rle_loss"),
            "rle_loss is not finite with 000000000036.jpg, although all outputs of the model are finite",
        ),
        (
            Diagnosis("loss", backward=True, operation="my.py:3: torch.sqrt, the input is 0; its gradient is inf"),
            "the gradient of the loss is not finite, although the loss is finite; "
            "my.py:3: torch.sqrt, the input is 0; its gradient is inf",
        ),
        (
            Diagnosis("activations", layer="model.3", backward=True),
            "the gradients become NaN or Inf in the backward pass at model.3",
        ),
        (
            Diagnosis("preprocessing", ONE, stage="preprocess_batch", operation="my.py:3: /, 9 of 16 divisors are 0"),
            "000000000036.jpg holds NaN or Inf pixels after preprocess_batch: my.py:3: /, 9 of 16 divisors are 0; the "
            "file and the loaded batch are fine",
        ),
        (
            Diagnosis("preprocessing", ONE, stage="transforms"),
            "000000000036.jpg holds NaN or Inf pixels after the transforms of the data set; the file is fine",
        ),
        (
            Diagnosis("transient", repeats=3),
            "the same batch did not fail again: the fault was transient, 3 times so far; if your code is not random, "
            "check the hardware",
        ),
        (
            Diagnosis("weights"),
            "the weights are damaged: on other images, trusted weights give a loss several times lower",
        ),
        (
            Diagnosis("weights", layer="model.3.bn", tensors=("model.3.bn.running_var",), tensor_count=1),
            "batch-norm statistics of model.3.bn are not finite",
        ),
        (
            Diagnosis("weights", layer="model.3.bn", tensors=("model.3.bn.bias", "model.3.bn.running_var")),
            "weights of model.3.bn are not finite",
        ),
        (
            Diagnosis("outlier", ONE, term="cls_loss", detail="40 times that of the others"),
            "cls_loss is far above its usual value with 000000000036.jpg: 40 times that of the others",
        ),
        (Diagnosis("transient"), "the same batch did not fail again: the fault was transient"),
        (Diagnosis("unknown"), "the cause is not known"),
        (
            Diagnosis("image", ONE, composite=("mosaic", "mixup")),
            "000000000036.jpg holds NaN or Inf pixels (used in mosaic or mixup as the first of several images)",
        ),
    ],
)
def test_sentences(culprit, sentence):
    assert culprit.sentence() == sentence
    assert Diagnosis.from_record(culprit.record()).sentence() == sentence
