"""What is known of a step before it is taken, held against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tests.fake_trainer import Core, Tiny, TwoRanks, batch_of
from yolo_gradsafe.judge.verdict import BatchNormHealth, StepMetrics


def with_gradients(core: Core, loss: float = 8.0, **values: float) -> None:
    """Put a batch's loss, 8 by default, and gradients of known size in place: 0, but for these parameters."""
    for name, parameter in core.raw.model.named_parameters():
        parameter.grad = torch.full_like(parameter, values.get(name.replace(".", "_"), 0.0))
    core.raw.loss = torch.tensor(loss)
    core.raw.loss_items = {"box_loss": torch.tensor(loss / 8), "cls_loss": torch.tensor(loss / 4)}
    batches = core.step.window.batches
    core.step.window.open(1, len(batches) + 1)
    batches[-1].size = 4


def measure(core: Core, step: int = 5, unscaled: bool = True) -> StepMetrics:
    metrics, gradients, agreed = core.step.measurement.measure(step, unscaled)
    assert agreed == []
    assert gradients.names == [name for name, _ in core.raw.model.named_parameters()]
    return metrics


def test_the_numbers_of_a_known_gradient(tmp_path):
    core = Core(tmp_path)
    with_gradients(core, conv_weight=2.0, head_bias=1.0)  # six twos and a one
    metrics = measure(core)
    assert metrics.grad_norm == pytest.approx(5.0)
    assert metrics.tensor_norms == pytest.approx([math.sqrt(24), 0, 0, 0, 0, 1])
    assert dict(zip(core.step.measurement.groups.layers, metrics.layer_norms, strict=True)) == pytest.approx(
        {"conv": math.sqrt(24), "norm": 0.0, "head": 1.0}
    )
    assert dict(zip(core.step.measurement.groups.stages, metrics.stage_norms, strict=True)) == pytest.approx(
        {"conv": math.sqrt(24), "norm": 0.0, "head": 1.0}
    )
    assert (metrics.epoch, metrics.step, metrics.batch, metrics.lr) == (1, 5, 1, 0.01)
    assert (metrics.losses, metrics.loss, metrics.image_loss, metrics.images) == ([8.0], 8.0, 2.0, 4)
    assert metrics.items == {"box_loss": 1.0, "cls_loss": 2.0}
    assert metrics.sound
    assert (metrics.scaler, metrics.amp_scale, metrics.norm_overflow, metrics.bad_tensors) == (False, 1.0, False, [])
    # Two means of 0, two variances of 1, and a count of batches, which is no floating-point number.
    assert metrics.batchnorm_norm == pytest.approx(math.sqrt(2))
    assert metrics.layer_update_ratios is None


def test_parameters_without_a_gradient_are_left_out(tmp_path):
    core = Core(tmp_path)
    with_gradients(core, conv_weight=2.0, head_bias=1.0)
    core.raw.model.conv.weight.grad = None
    metrics, gradients, _ = core.step.measurement.measure(1, unscaled=True)
    assert metrics.grad_norm == 1.0
    assert "conv.weight" not in gradients.names
    assert metrics.layer_norms.tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("unscaled", [True, False])
def test_norms_are_those_of_unscaled_gradients(tmp_path, unscaled):
    core = Core(tmp_path, Tiny(tmp_path, scaler=1024.0))
    core.raw.scaler.scale(torch.zeros(()))  # makes the scale
    with_gradients(core, head_bias=3.0 if unscaled else 3.0 * 1024)
    metrics = measure(core, unscaled=unscaled)
    assert metrics.grad_norm == pytest.approx(3.0)
    assert (metrics.scaler, metrics.amp_scale) == (True, 1024.0)


@pytest.mark.parametrize("unscaled", [True, False])
def test_a_norm_that_overflows_is_known_all_the_same(tmp_path, unscaled):
    core = Core(tmp_path, Tiny(tmp_path, scaler=1024.0))
    core.raw.scaler.scale(torch.zeros(()))
    size = 1e30 if unscaled else 1e30 * 1024
    with_gradients(core, conv_weight=2 * size, head_bias=size)
    metrics = measure(core, unscaled=unscaled)
    assert metrics.norm_overflow
    assert metrics.finite
    assert metrics.grad_norm == pytest.approx(5e30)
    assert metrics.bad_tensors == []


def test_gradients_that_are_not_finite_are_named(tmp_path):
    core = Core(tmp_path)
    with_gradients(core, conv_weight=1e30, head_bias=math.nan)
    core.raw.model.norm.weight.grad[1] = -math.inf
    metrics = measure(core)
    assert metrics.bad_tensors == ["norm.weight", "head.bias"], "and not the one whose squares alone overflow"
    assert (metrics.grads_finite, metrics.losses_finite, metrics.finite) == (False, True, False)
    assert not metrics.norm_overflow


def test_a_loss_that_is_not_finite_has_no_loss_an_image(tmp_path):
    core = Core(tmp_path)
    with_gradients(core, loss=math.nan)
    metrics = measure(core)
    assert (metrics.losses_finite, metrics.grads_finite, metrics.image_loss) == (False, True, 0.0)


@pytest.mark.parametrize(("variance", "health"), [
    (1.0, BatchNormHealth.SOUND),
    (900.0, BatchNormHealth.SOUND),
    (1500.0, BatchNormHealth.BLOWN_UP),
    (3e38, BatchNormHealth.NOT_FINITE),  # its norm is inf, and as bad
    (math.inf, BatchNormHealth.NOT_FINITE),
    (math.nan, BatchNormHealth.NOT_FINITE),
])  # fmt: skip
def test_batch_norm_statistics_are_held_against_the_usual_ones(tmp_path, variance, health):
    core = Core(tmp_path)
    core.history.batchnorm.commit(math.sqrt(2))
    with_gradients(core)
    core.raw.model.norm.running_var.fill_(variance)
    metrics = measure(core)
    assert metrics.batchnorm is health
    assert metrics.sound is (health is BatchNormHealth.SOUND)


def test_statistics_whose_norm_alone_overflows_are_sound_where_nothing_is_usual_yet(tmp_path):
    core = Core(tmp_path)
    with_gradients(core)
    core.raw.model.norm.running_var.fill_(3e38)
    assert measure(core).batchnorm is BatchNormHealth.SOUND


def test_a_window_of_two_micro_batches(tmp_path):
    core = Core(tmp_path)
    core.raw.backward(batch_of(1))
    first = float(core.raw.loss)
    core.raw.run_callbacks("on_train_batch_end")
    core.raw.backward(batch_of(2))
    second = float(core.raw.loss)
    metrics = measure(core)
    assert metrics.losses == pytest.approx([first, second])
    assert metrics.loss == pytest.approx(second)
    assert metrics.image_loss == pytest.approx((first + second) / 8)
    assert metrics.batch == 2
    assert list(metrics.items.values()) == pytest.approx([float(v) for v in core.raw.loss_items.values()])


def test_a_micro_batch_that_was_taken_out_does_not_count(tmp_path):
    core = Core(tmp_path)
    with_gradients(core, loss=math.nan)
    core.step.window.set_loss(core.raw.loss)
    core.step.window.skip_newest()
    with_gradients(core, loss=8.0)
    metrics = measure(core)
    assert (metrics.losses, metrics.image_loss) == ([8.0], 2.0)


def test_a_sample_of_the_weights_comes_with_the_next_step_once(tmp_path):
    core = Core(tmp_path)
    updates = core.step.measurement.updates
    updates._every = 1
    with_gradients(core)
    measure(core)
    with torch.no_grad():
        core.raw.model.head.weight *= 1.25
    updates._every = 0
    updates.note_step(taken=True)
    ratios = measure(core).layer_update_ratios
    weight, bias = core.raw.model.head.weight.detach() / 1.25, core.raw.model.head.bias.detach()
    change, size = 0.25 * float(weight.norm()), math.hypot(*weight.flatten().tolist(), *bias.tolist())
    assert ratios.tolist() == pytest.approx([0.0, 0.0, change / size], rel=1e-5)
    updates.note_step(taken=False)
    assert measure(core).layer_update_ratios is None


# Ranks ---------------------------------------------------------------------------------------------------------------

HEALTHY = [0.0, 0.0, 0.0, 2.0, 0.0, 1.0, -1.0]
"""What a rank says of a healthy step: losses and gradients are not bad, statistics sound, loss an image, how
far the weights moved (0: not known), its scale."""


def said(**changed: float) -> list[float]:
    names = ("losses_bad", "grads_bad", "batchnorm", "image_loss", "ratio", "most", "least")
    return [changed.get(name, value) for name, value in zip(names, HEALTHY, strict=True)]


def test_what_a_rank_says_of_a_step(tmp_path):
    core = Core(tmp_path)
    ranks = core.among(TwoRanks(said()))
    with_gradients(core)
    assert measure(core).sound
    assert ranks.heard == [HEALTHY], "in one message"


@pytest.mark.parametrize(("change", "field", "value"), [
    ({"losses_bad": 1.0}, "losses_finite", False),
    ({"grads_bad": 1.0}, "grads_finite", False),
    ({"batchnorm": 2.0}, "batchnorm", BatchNormHealth.NOT_FINITE),
    ({"image_loss": 9.0}, "image_loss", 9.0),
])  # fmt: skip
def test_the_worst_of_all_ranks_counts(tmp_path, change, field, value):
    core = Core(tmp_path)
    core.among(TwoRanks(said(**change)))
    with_gradients(core)
    metrics = measure(core)
    assert getattr(metrics, field) == value
    assert (metrics.losses, metrics.bad_tensors) == ([8.0], []), "its own are each rank's"


def test_the_rank_whose_weights_moved_furthest_counts(tmp_path):
    core = Core(tmp_path)
    core.among(TwoRanks(said(ratio=0.5)))
    with_gradients(core)
    assert measure(core).update_ratio == 0.5


@pytest.mark.parametrize(("scale", "finite", "expected"), [(1.0, True, 1.0), (4.0, False, 0.0), (0.5, False, 0.0)])
def test_gradients_that_ranks_have_scaled_differently_are_worth_nothing(tmp_path, scale, finite, expected):
    core = Core(tmp_path)
    core.among(TwoRanks(said(most=scale, least=-scale)))
    with_gradients(core)
    metrics = measure(core)
    assert (metrics.grads_finite, metrics.amp_scale) == (finite, expected)


def test_what_is_told_along_comes_back_as_the_largest(tmp_path):
    core = Core(tmp_path)
    with_gradients(core)
    assert core.step.measurement.measure(1, True, [3.0, 0.0])[2] == [3.0, 0.0], "alone"
    core.among(TwoRanks([*HEALTHY, 1.0, 7.0]))
    assert core.step.measurement.measure(1, True, [3.0, 0.0])[2] == [3.0, 7.0]
