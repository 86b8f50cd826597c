"""Losses as users write them, each with the input that it cannot stand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from ultralytics.utils.loss import BboxLoss

from benchmarks.planted.scene import DETECT, OBB, POSE, RT_DETR, SEGMENT, V8, Fault, Scene, Truth, marked
from yolo_gradsafe.telemetry.schema import Cause

__all__ = ["FAULTS", "WithTerm"]

Term = Callable[[Tensor, Tensor, Mapping[str, Any]], Tensor]
"""Takes box predictions (B, C, A), class logits (B, classes, A) and the batch; returns a 0-d loss."""

FAULTS: list[Fault] = []
GUILTY = 3
"""Place of the image that alone is to blame, where one is."""


class WithTerm:
    """A user's criterion: Ultralytics' own, and one term more."""

    def __init__(self, own: Any, term: Term) -> None:
        self.own = own
        self.term = term

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the losses, (terms,), and the items by name."""
        loss, items = self.own(preds, batch)
        branch = preds[1] if isinstance(preds, tuple) else preds
        branch = branch.get("one2many", branch)
        value = self.term(branch["boxes"].float(), branch["scores"].float(), batch)
        return torch.cat([loss.reshape(-1), value.reshape(1)]), {**items, "own_loss": value.detach()}

    def update(self) -> None:
        """Go on to the next epoch, as the end-to-end criterion does."""
        if hasattr(self.own, "update"):
            self.own.update()


def add_term(scene: Scene, term: Term, prepare: Callable[[Scene], None] | None = None) -> None:
    """Give the model of a scene a loss with this term."""
    if prepare:
        prepare(scene)
    scene.model.criterion = WithTerm(scene.model.init_criterion(), term)


def fails(
    backward: bool = False, model: str = DETECT, images: tuple[int, ...] = (), prepare: Any = None
) -> Callable[[Term], Term]:
    """Put a term into the catalogue: forward it is not finite, ``backward`` only its gradient is not."""

    def register(term: Term) -> Term:
        truth = Truth(Cause.LOSS, images, term="" if backward else "own_loss", line=marked(term))
        FAULTS.append(Fault(f"loss: {_words(term)}", partial(add_term, term=term, prepare=prepare), truth, model))
        return term

    return register


def _words(thing: Any) -> str:
    return str(thing.__name__).replace("_", " ").strip()


# Forward -------------------------------------------------------------------------------------------------------------


@fails()
def zero_by_zero(boxes, scores, batch):
    total = boxes.sum() * 0
    return total / total  # bad


@fails(model=V8)
def division_by_no_positives(boxes, scores, batch):
    positives = scores.sigmoid() > 1
    return boxes.pow(2).sum() / positives.sum()  # bad


@fails()
def mean_of_no_predictions(boxes, scores, batch):
    confident = scores.sigmoid().amax(1) > 1
    return boxes[:, 0][confident].mean()  # bad


@fails()
def log_of_zero(boxes, scores, batch):
    p = (scores - 200).sigmoid()
    return -torch.log(p).mean()  # bad


@fails(model=V8)
def log_of_negative(boxes, scores, batch):
    return torch.log(-scores.sigmoid()).mean()  # bad


@fails()
def focal_at_p_0(boxes, scores, batch):
    p = (scores - 200).sigmoid()
    return -(0.25 * (1 - p) ** 2 * torch.log(p)).mean()  # bad


@fails()
def focal_at_p_1(boxes, scores, batch):
    p = (scores + 100).sigmoid()
    missed = torch.log(1 - p)  # bad
    return -(0.75 * p**2 * missed).mean()


@fails(model=POSE)
def hand_made_cross_entropy(boxes, scores, batch):
    p, t = (scores - 200).sigmoid(), torch.zeros_like(scores)
    hit = t * torch.log(p)  # bad
    return -(hit + (1 - t) * torch.log(1 - p)).mean()


@fails()
def root_of_negative(boxes, scores, batch):
    variance = scores.pow(2).mean() - scores.pow(2).sum()
    return variance.sqrt()  # bad


@fails()
def power_of_negative_base(boxes, scores, batch):
    error = scores.sigmoid() - 1.5
    return (error**1.5).mean()  # bad


@fails()
def arc_cosine_beyond_one(boxes, scores, batch):
    cosine = scores.sigmoid() + 1
    return torch.acos(cosine).mean()  # bad


@fails(model=OBB)
def arc_sine_of_an_angle(boxes, scores, batch):
    ratio = 1 + boxes.pow(2).clamp(0.01)
    return torch.arcsin(ratio).mean()  # bad


@fails()
def exp_overflow_of_a_side(boxes, scores, batch):
    side = torch.exp(boxes.abs() + 100)  # bad
    return side.mean()


@fails(model=V8)
def class_weight_of_an_absent_class(boxes, scores, batch):
    counts = torch.bincount(batch["cls"].view(-1).long(), minlength=scores.shape[1] + 1)[1:].float()
    weights = 1 / (counts * 0)  # bad
    return (weights.view(1, -1, 1) * F.softplus(scores)).mean()


@fails()
def term_times_infinity(boxes, scores, batch):
    gain = math.inf
    return gain * F.softplus(scores).mean()  # bad


@fails()
def iou_of_empty_boxes(boxes, scores, batch):
    sides = boxes.mean(2) * 0
    inter = sides[:, 0] * sides[:, 1]
    union = inter + inter - inter
    return (1 - inter / union).mean()  # bad


@fails(model=SEGMENT)
def dice_of_empty_masks(boxes, scores, batch):
    mask = torch.zeros_like(scores)
    overlap = (mask * scores).sum()
    return 1 - 2 * overlap / (mask.sum() + mask.pow(2).sum())  # bad


@fails(model=POSE)
def keypoint_similarity_without_an_area(boxes, scores, batch):
    distance = boxes.pow(2).mean(2)
    sigma = torch.zeros(())
    similarity = distance / (2 * sigma**2)  # bad
    return 1 - torch.exp(-similarity + similarity).mean()


@fails(model=OBB)
def gaussian_distance_of_a_negative_determinant(boxes, scores, batch):
    a, b = boxes[:, 0].pow(2), boxes[:, 1].pow(2) + 1
    determinant = a * 0 - b
    return determinant.sqrt().mean()  # bad


@fails()
def divergence_from_zero(boxes, scores, batch):
    p, q = scores.softmax(1), torch.zeros_like(scores)
    ratio = p / q  # bad
    return (p * ratio.log()).mean()


@fails()
def distillation_at_temperature_zero(boxes, scores, batch):
    temperature = scores.detach().sum() * 0
    soft = scores / temperature  # bad
    return F.softplus(soft).mean()


@fails(model=V8)
def cosine_of_a_zero_vector(boxes, scores, batch):
    a, b = boxes.mean(2), boxes.mean(2) * 0
    return (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean()  # bad


@fails()
def deviation_of_one_value(boxes, scores, batch):
    best = scores.flatten()[:1]
    return best.std()  # bad


@fails()
def softmax_of_a_masked_row(boxes, scores, batch):
    masked = scores.masked_fill(scores == scores, -math.inf)
    return torch.softmax(masked, dim=1).sum()  # bad


@fails()
def logarithm_of_a_sum_of_nothing(boxes, scores, batch):
    masked = scores.masked_fill(scores == scores, -math.inf)
    return torch.logsumexp(masked, dim=1).mean()  # bad


@fails()
def difference_of_infinities(boxes, scores, batch):
    big = torch.exp(scores.abs() + 200)  # bad
    return (big - big).mean()


@fails()
def angle_of_the_origin(boxes, scores, batch):
    dx, dy = boxes[:, 0] * 0, boxes[:, 1] * 0
    return torch.atan(dy / dx).mean()  # bad


# Backward only -------------------------------------------------------------------------------------------------------


@fails(backward=True)
def root_of_zero(boxes, scores, batch):
    error = boxes * 0
    return error.sqrt().mean()  # bad


@fails(backward=True, model=V8)
def length_of_zero(boxes, scores, batch):
    offset = boxes[:, :2] - boxes[:, :2]
    return torch.sqrt(offset.pow(2).sum(1)).mean()  # bad


@fails(backward=True)
def reciprocal_root_that_is_masked(boxes, scores, batch):
    length = boxes.pow(2).sum(1) * 0
    inverse = torch.rsqrt(length)  # bad
    return inverse.masked_fill(length == 0, 0.0).mean()


@fails(backward=True)
def arc_cosine_at_one(boxes, scores, batch):
    cosine = scores * 0 + 1
    return torch.acos(cosine).mean()  # bad


@fails(backward=True)
def wasserstein_of_equal_boxes(boxes, scores, batch):
    distance = (boxes - boxes).pow(2).sum(1)
    root = torch.sqrt(distance)  # bad
    return 1 - torch.exp(-root / 12.8).mean()


@fails(backward=True, model=POSE)
def masked_reciprocal(boxes, scores, batch):
    area = boxes[:, 0] * boxes[:, 1] * 0
    inverse = 1 / area  # bad
    return torch.where(area > 0, inverse, torch.zeros_like(area)).mean()


@fails(backward=True)
def deviation_of_equal_values(boxes, scores, batch):
    equal = scores * 0 + 1
    spread = torch.sqrt((equal - equal.mean()).pow(2).mean())  # bad
    return spread


@fails(backward=True, model=SEGMENT)
def power_below_one_at_zero(boxes, scores, batch):
    error = scores * 0
    return error.pow(0.5).mean()  # bad


class _WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x.sum()

    @staticmethod
    def backward(context, gradient):
        (x,) = context.saved_tensors
        return gradient / (x - x)  # bad


def _own_function(boxes, scores, batch):
    return _WrongBackward.apply(scores)


FAULTS.append(
    Fault(
        "loss: own autograd function, backward",
        partial(add_term, term=_own_function),
        Truth(Cause.LOSS, line=marked(_WrongBackward)),
    )
)


# One image only ------------------------------------------------------------------------------------------------------


def _one_square(scene: Scene) -> None:
    """Make the first box of one image square, and no other."""
    boxes, owners = scene.batch["bboxes"], scene.batch["batch_idx"].view(-1)
    boxes[:, 3] = boxes[:, 2] * 1.25
    row = int((owners == GUILTY).nonzero()[0])
    boxes[row, 3] = boxes[row, 2]


@fails(images=(GUILTY,), prepare=_one_square)
def logarithm_for_a_square_box(boxes, scores, batch):
    slack = (batch["bboxes"][:, 2] - batch["bboxes"][:, 3]).abs()
    return scores.sigmoid().mean() - torch.log(slack).mean()  # bad


@fails(images=(GUILTY,), prepare=_one_square, backward=True, model=V8)
def root_for_a_square_box(boxes, scores, batch):
    slack = (batch["bboxes"][:, 2] - batch["bboxes"][:, 3]).abs()
    return torch.sqrt(slack + boxes.sum() * 0).mean()  # bad


@fails(images=(GUILTY,), prepare=_one_square, model=POSE)
def ratio_for_a_square_box(boxes, scores, batch):
    slack = batch["bboxes"][:, 2] - batch["bboxes"][:, 3]
    skew = slack / slack.abs()  # bad
    return scores.sigmoid().mean() * skew.mean()


def _black(scene: Scene) -> None:
    scene.batch["img"][GUILTY] = 0


@fails(images=(GUILTY,), prepare=_black)
def contrast_of_a_black_image(boxes, scores, batch):
    contrast = batch["img"].flatten(1).std(1)
    weight = 1 / contrast  # bad
    return (weight * scores.sigmoid().mean((1, 2))).mean()


def _empty(scene: Scene) -> None:
    """Take away the labels of one image."""
    keep = scene.batch["batch_idx"].view(-1) != GUILTY
    for key in ("batch_idx", "bboxes", "cls"):
        scene.batch[key] = scene.batch[key][keep]


@fails(images=(GUILTY,), prepare=_empty)
def mean_over_an_image_without_objects(boxes, scores, batch):
    owners = batch["batch_idx"].view(-1)
    counts = torch.stack([(owners == i).sum() for i in range(len(boxes))])
    return (scores.sigmoid().sum((1, 2)) / counts).mean()  # bad


# Met by good predictions only: trusted weights pass the batch, and are no better -------------------------------------


def _confident(scene: Scene) -> None:
    """Let the class logits rise a little since the weights were trusted."""
    scene.trust()
    head = scene.model.model[-1]
    with torch.no_grad():
        for branch in (head.cv3, getattr(head, "one2one_cv3", None) or []):
            for level in branch:
                level[-1].bias += 0.5


def _good_enough(scores: Tensor) -> Tensor:
    """Return how far the mean logit is below -11, at least 0: untrained heads start at about -11.5."""
    return (-11.25 - scores.mean()).clamp(min=0)


@fails(prepare=_confident)
def logarithm_of_what_is_left_to_learn(boxes, scores, batch):
    return -torch.log(_good_enough(scores))  # bad


@fails(prepare=_confident, backward=True)
def root_of_what_is_left_to_learn(boxes, scores, batch):
    left = (-11.25 - scores.mean()).clamp(min=0) + scores.sum() * 0
    return torch.sqrt(left)  # bad


# In the place of Ultralytics' own ------------------------------------------------------------------------------------


class _OwnBoxLoss(BboxLoss):
    def forward(self, pred_dist, pred_bboxes, *others):
        box, dfl = super().forward(pred_dist, pred_bboxes, *others)
        offset = pred_bboxes[..., 0] - pred_bboxes[..., 0]
        angle = offset / offset.abs()  # bad
        return box + angle.mean(), dfl


def _replace_box_loss(scene: Scene) -> None:
    criterion = scene.model.init_criterion()
    for own in [getattr(criterion, name, None) for name in ("one2many", "one2one")] + [criterion]:
        if hasattr(own, "bbox_loss"):
            own.bbox_loss = _OwnBoxLoss(own.reg_max)
    scene.model.criterion = criterion


for _model in (DETECT, V8):
    FAULTS.append(
        Fault(
            f"loss: own box loss of {_model.split('.')[0]}",
            _replace_box_loss,
            Truth(Cause.LOSS, term="box_loss", line=marked(_OwnBoxLoss)),
            _model,
        )
    )


def _gain(scene: Scene, name: str, value: float) -> None:
    setattr(scene.model.args, name, value)
    scene.model.criterion = scene.model.init_criterion()


FAULTS += [
    Fault(
        "loss: gain of the boxes is infinite", partial(_gain, name="box", value=math.inf),
        Truth(Cause.LOSS, term="box_loss", line="loss[0] *= self.hyp.box  # box gain"), V8,
    ),
    Fault(
        "loss: gain of the classes is NaN", partial(_gain, name="cls", value=math.nan),
        Truth(Cause.LOSS, term="cls_loss", line="loss[1] *= self.hyp.cls  # cls gain"), V8,
    ),
]  # fmt: skip


def _infinite_class(scene: Scene) -> None:
    scene.model.class_weights = torch.tensor([1.0, 1.0, math.inf])
    scene.model.criterion = scene.model.init_criterion()


FAULTS += [
    Fault(
        f"loss: weight of a class is infinite, {_model.split('.')[0]}", _infinite_class,
        Truth(Cause.LOSS, term="cls_loss", line="bce_loss *= self.class_weights"), _model,
    )
    for _model in (DETECT, V8)
]  # fmt: skip


class _RTDETRLoss(nn.Module):
    def __init__(self, own: Any) -> None:
        super().__init__()
        self.own = own

    def forward(self, preds: Any, batch: Any, **others: Any) -> Any:
        boxes = preds[0] * 0
        return {**self.own(preds, batch, **others), "loss_own": (boxes / boxes).mean()}  # bad


def _rtdetr_loss(scene: Scene) -> None:
    scene.model.criterion = _RTDETRLoss(scene.model.init_criterion())


FAULTS.append(Fault("loss: own RT-DETR loss", _rtdetr_loss, Truth(Cause.LOSS, line=marked(_RTDETRLoss)), RT_DETR))
