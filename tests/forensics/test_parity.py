"""A diagnosis in the middle of a training changes nothing of it."""

from __future__ import annotations

import pytest

from tests.arm import Arm

DIAGNOSE = """
from ultralytics.utils.torch_utils import unwrap_model
from yolo_gradsafe.forensics.case import Surroundings
from yolo_gradsafe.forensics.diagnose import diagnose
from yolo_gradsafe.adapter.replay import Replay, composed, plain_batch

held, said = [], []

def hold(trainer):
    preprocess = trainer.preprocess_batch
    def preprocess_batch(batch):
        held[:] = [preprocess(batch)]
        return held[0]
    trainer.preprocess_batch = preprocess_batch

def look(trainer):
    replay = Replay(unwrap_model(trainer.model))
    poisoned = {**held[0], "img": held[0]["img"].clone()}
    poisoned["img"][1, 0, 0, 0] = float("nan")
    for batch in (held[0], poisoned):
        said.append(diagnose(
            replay, batch, gradients_bad=True,
            around=Surroundings(composite=composed(trainer), plain=lambda image: plain_batch(trainer, [image])),
        ).cause)

def check(trainer):
    assert said == ["transient", "preprocessing"] * 6, said

callbacks["on_train_start"].append(hold)
callbacks["on_train_batch_end"].append(look)
callbacks["on_train_end"].append(check)
"""


@pytest.mark.slow
@pytest.mark.parametrize("args", [{}, {"mosaic": 0.0, "nbs": 8}], ids=["mosaic", "accumulated"])
def test_a_training_with_a_diagnosis_in_every_batch_ends_in_the_same_bits(train, drawn, args):
    plain = train(Arm(str(drawn["pose"]), "yolo26n-pose.yaml", args), "plain")
    looked_at = train(Arm(str(drawn["pose"]), "yolo26n-pose.yaml", args, code=DIAGNOSE), "looked_at")
    assert (plain.error, looked_at.error) == ("", "")
    assert looked_at.digests == plain.digests
    assert looked_at.losses() == plain.losses()
