"""A batch once more: how far its loss may be compared with that of other weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from ultralytics.utils.loss import v8DetectionLoss
from ultralytics.utils.tal import TaskAlignedAssigner

from yolo_gradsafe.adapter.replay import Replay


class Matching(TaskAlignedAssigner):
    """Gives the scores that it is told."""

    def __init__(self, score: float) -> None:
        nn.Module.__init__(self)
        self.score = score

    def forward(self, images):
        scores = torch.full((len(images), 1), self.score / len(images))
        return scores > 0, images, scores, scores > 0, scores > 0


class OwnLoss(v8DetectionLoss):
    """Divides by the sum of the scores, and by no less than 1, as its base class does."""

    def __init__(self, *scores: float) -> None:
        self.assigner = Matching(scores[0])
        if len(scores) > 1:
            self.one2one = OwnLoss(*scores[1:])

    def __call__(self, images):
        scores = self.assigner(images)[2].sum()
        return scores * 5 / scores.clamp(min=1) + (self.one2one(images) if hasattr(self, "one2one") else 0)


class Model(nn.Module):
    """Has a criterion, as Ultralytics' models."""

    def __init__(self, criterion) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.criterion = criterion

    def forward(self, batch):
        loss = self.criterion(batch["img"]) * self.weight
        return loss, {"box_loss": loss.detach()}


BATCH = {"img": torch.zeros(4, 3, 2, 2)}


@pytest.mark.parametrize(("scores", "level"), [
    ([8.0], 5.0),
    ([0.01], 5.0),  # almost nothing is matched: the loss itself is 0.05
    ([0.0], 0.0),  # no object, or an assigner that never gives any
    ([8.0, 0.5], 15.0),  # the worst of two branches counts
])  # fmt: skip
def test_the_level_of_a_loss_does_not_fall_where_weights_match_nothing(scores, level):
    seen = Replay(Model(OwnLoss(*scores))).run(BATCH)
    assert math.isclose(seen.level, level, rel_tol=1e-5)


def test_looking_at_the_scores_leaves_no_trace():
    model = Model(OwnLoss(0.5))
    Replay(model).run(BATCH, backward=True)
    assert not model.criterion.assigner._forward_hooks


def test_a_loss_without_such_an_assigner_is_taken_as_it_is():
    seen = Replay(Model(lambda images: images.sum() + 3)).run(BATCH)
    assert seen.level == seen.total == 3
