"""The cause of a bad batch, on a model of some twenty numbers: each is told from the others, by evidence."""

from __future__ import annotations

import math
import random
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.fake_trainer import IMAGES, TinyModel, batch_of, nan_batch
from tests.forensics.lab import digest_batch, fingerprint
from yolo_gradsafe.adapter.replay import Replay
from yolo_gradsafe.forensics.case import Surroundings
from yolo_gradsafe.forensics.diagnose import Cap, diagnose
from yolo_gradsafe.telemetry.schema import Cause

BRIEF, THOROUGH = Cap(thorough=False), Cap()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TinyModel().train()


def trusted(model):
    """Return what puts a copy of the weights as they are now in the live ones' place."""
    good = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    @contextmanager
    def standing_in():
        live = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(good)
        try:
            yield
        finally:
            model.load_state_dict(live)

    return standing_in


def around(model, others=lambda: batch_of(7), **more) -> Surroundings:
    """Return surroundings with all that weights can be judged by."""
    return Surroundings(trusted=trusted(model), others=others, **more)


def nan_target(*images):
    batch = batch_of(0)
    batch["target"][list(images or range(IMAGES))] = math.nan
    return batch


def good_predictions_only(model):
    """Let the loss be 0 / 0 where the weights are these ones, as where boxes coincide: other weights pass it."""
    exact, forward = model.head.weight.detach().clone(), model.forward

    def singular(batch):
        loss, items = forward(batch)
        gap = (model.head.weight.detach() - exact).abs().sum()
        return loss * (gap / gap), items

    model.forward = singular


# Told from one another -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [BRIEF, THOROUGH])
@pytest.mark.parametrize("cause", [
    Cause.TRANSIENT, Cause.IMAGE, Cause.LABEL, Cause.PRECISION, Cause.LOSS, Cause.ACTIVATIONS, Cause.WEIGHTS,
])  # fmt: skip
def test_each_cause_is_told_from_the_others_and_leaves_no_trace(model, cause, cap):
    known, batch, precision = around(model), batch_of(0), "fp32"
    if cause is Cause.IMAGE:
        batch = nan_batch()
    elif cause is Cause.LABEL:
        batch = {**nan_target(), "batch_idx": torch.arange(IMAGES), "cls": torch.full((IMAGES, 1), math.nan)}
    elif cause is Cause.PRECISION:
        batch, precision = batch_of(0, spread=1e6), "fp16"  # fp16 ends at 65504
    elif cause is Cause.LOSS:
        batch = nan_target()
    elif cause is Cause.ACTIVATIONS:
        model.head.weight.data.fill_(3e38)
        known = Surroundings()
    elif cause is Cause.WEIGHTS:
        model.head.weight.data[0, 0] = math.nan
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, content = fingerprint(model), digest_batch(batch)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    found = diagnose(Replay(model, precision), batch, around=known, cap=cap)
    assert found.cause is cause
    assert fingerprint(model) == before
    assert digest_batch(batch) == content
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_pixel_that_is_not_finite_settles_it(model):
    known = around(model, elevated=True)
    model.head.weight.data *= 20
    found = diagnose(Replay(model, "fp16"), nan_batch(), around=known, cap=BRIEF)
    assert (found.cause, found.images) == (Cause.IMAGE, ("0-1.jpg",))


# The weights: by positive evidence only ------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [BRIEF, THOROUGH])
@pytest.mark.parametrize(("times", "cause"), [(1.0, Cause.LOSS), (1.2, Cause.LOSS), (20.0, Cause.WEIGHTS)])
def test_weights_that_do_several_times_worse_on_other_images_are_to_blame(model, times, cause, cap):
    known = around(model)
    model.head.weight.data *= times
    found = diagnose(Replay(model), nan_target(), around=known, cap=cap)
    assert (found.cause, found.images, found.proven) == (cause, (), False)


def test_weights_whose_activations_are_not_finite_on_other_images_are_to_blame(model):
    known = around(model)
    model.conv.weight.data.fill_(3e38)
    assert diagnose(Replay(model), batch_of(0), around=known, cap=BRIEF).cause is Cause.WEIGHTS


def test_a_module_that_fails_on_activations_of_the_usual_size_is_at_fault_itself(model):
    known = around(model)
    model.conv.weight.data += 0.01
    exact, forward = model.conv.weight.detach().clone(), model.conv.forward

    def singular(images):  # other images fail as well, and trusted weights pass
        gap = (model.conv.weight.detach() - exact).abs().sum()
        return forward(images) * (gap / gap)

    model.conv.forward = singular
    with known.trusted():
        assert Replay(model).run(batch_of(0)).finite
    found = diagnose(Replay(model), batch_of(0), around=known, cap=BRIEF)
    assert (found.cause, found.layer) == (Cause.ACTIVATIONS, "conv")


@pytest.mark.parametrize("times", [3.0, 100.0])
def test_it_is_the_weights_fault_where_they_have_grown(model, times):
    known = around(model)
    model.conv.weight.data *= times
    limit, forward = float(model.conv.weight.abs().max()), model.conv.forward
    model.conv.forward = lambda images: forward(images) + (math.inf if model.conv.weight.abs().max() >= limit else 0)
    found = diagnose(Replay(model), batch_of(0), around=known, cap=BRIEF)
    assert found.cause is (Cause.WEIGHTS if times > 10 else Cause.ACTIVATIONS)


def test_that_older_weights_pass_the_batch_is_no_evidence(model):
    known = around(model)
    model.head.weight.data += 0.01
    good_predictions_only(model)
    with known.trusted():
        assert Replay(model).run(batch_of(0)).finite
    assert diagnose(Replay(model), batch_of(0), around=known, cap=BRIEF).cause is Cause.LOSS


def test_it_is_with_losses_that_had_been_high_before(model):
    known = around(model, elevated=True)
    model.head.weight.data += 0.01
    good_predictions_only(model)
    assert diagnose(Replay(model), batch_of(0), around=known, cap=BRIEF).cause is Cause.WEIGHTS


def test_high_losses_alone_are_none_where_older_weights_fail_as_well(model):
    found = diagnose(Replay(model), nan_target(), around=around(model, elevated=True), cap=BRIEF)
    assert found.cause is Cause.LOSS


@pytest.mark.parametrize("missing", ["trusted", "others", "images"])
def test_without_weights_or_images_to_compare_with_nothing_is_said_of_them(model, missing):
    known = around(model, others=lambda: None) if missing == "images" else around(model)
    known = known if missing == "images" else replace(known, **{missing: None})
    model.head.weight.data *= 20
    found = diagnose(Replay(model), nan_target(), around=known, cap=BRIEF)
    assert (found.cause, found.notes) == (Cause.LOSS, ())


def test_other_images_that_fail_with_older_weights_too_prove_nothing(model):
    known = around(model, others=nan_target)
    model.head.weight.data *= 20
    assert diagnose(Replay(model), nan_target(), around=known, cap=BRIEF).cause is Cause.LOSS


def test_other_images_that_cannot_be_loaded_are_noted(model):
    def others():
        raise OSError("the disk is gone")

    found = diagnose(Replay(model), nan_target(), around=around(model, others=others), cap=BRIEF)
    assert found.cause is Cause.LOSS
    assert found.notes == ("could not compare with trusted weights: OSError: the disk is gone",)


@pytest.mark.parametrize(("times", "cause", "images"), [(1.0, Cause.LOSS, ("0-2.jpg",)), (20.0, Cause.WEIGHTS, ())])
def test_images_of_the_batch_that_pass_are_compared_before_any_is_loaded(model, times, cause, images):
    known = around(model, others=lambda: pytest.fail("loaded"))
    model.head.weight.data *= times
    found = diagnose(Replay(model), nan_target(2), around=known, cap=THOROUGH)
    assert (found.cause, found.images, found.notes) == (cause, images, ())


@pytest.mark.parametrize(("usual", "cause"), [
    (1.0, Cause.WEIGHTS),  # the weights have outgrown the precision
    (1e12, Cause.PRECISION),
    (math.nan, Cause.PRECISION),
])  # fmt: skip
def test_an_overflow_of_the_precision_is_the_weights_where_the_loss_is_far_out_of_range(model, usual, cause):
    known = around(model, usual_loss=usual)
    model.head.weight.data *= 1e6
    assert diagnose(Replay(model, "fp16"), batch_of(0), around=known, cap=BRIEF).cause is cause
