"""What holds for every rule and any finite gradient."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clipping.measured import STAGES, clipper, measure, norm64

MODES = {
    "norm": {},
    "value": {"value": {"limit": 0.3}},
    "agc": {"agc": {"exclude": []}},
    "percentile": {"warmup_steps": 2},
    "zscore": {"warmup_steps": 2},
    "adagc": {"warmup_steps": 2},
    "auto": {"warmup_steps": 2},
    "none": {},
}
WHOLE = ("norm", "percentile", "zscore", "auto", "none")
"""Rules that keep the direction of the whole gradient."""

sizes = st.floats(-30, 30).map(lambda exponent: 10.0**exponent)
tensors = st.tuples(st.integers(1, 9), sizes, st.integers(0, 2**31))
steps = st.lists(st.tuples(tensors, tensors, tensors), min_size=1, max_size=6)


def draw(spec):
    numel, size, seed = spec
    return (torch.randn(numel, generator=torch.Generator().manual_seed(seed)) * size).clamp(-3e38, 3e38)


def parallel(before, after, rel=1e-4):
    """Whether one vector is the other times a factor from 0 to 1, in double precision."""
    before, after = before.double(), after.double()
    peak = before.abs().max()
    if peak == 0:
        return bool((after == 0).all())
    factor = float(after.abs().max() / peak)
    # fp32 has no numbers under 1e-45: what is scaled below them is rounded.
    return factor <= 1 + 1e-6 and torch.allclose(after, before * factor, rtol=rel, atol=1e-38)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("mode", MODES)
@given(history=steps, images=st.integers(1, 64))
@settings(max_examples=60, deadline=None)
def test_below_the_threshold_and_in_the_same_direction(mode, per_image, history, images):
    rule = clipper(mode=mode, per_image=per_image, **MODES[mode])
    for specs in history:
        grads = {name: draw(spec) for name, spec in zip("abc", specs, strict=True)}
        gradients, observation = measure(grads, images=images)
        clip = rule.clip_(gradients, observation)
        before, after = norm64(list(grads.values())), norm64(gradients.tensors)
        assert all(bool(tensor.isfinite().all()) for tensor in gradients.tensors)
        # fp32 squares under 1e-45 are zero: norms below 1e-19 or so are not seen, and not clipped.
        assert after <= clip.threshold * (1 + 1e-4) + 1e-18
        assert 0 < clip.scale <= 1
        if observation.norm > 1e-12:
            assert after == pytest.approx(clip.scale * before, rel=1e-3)
        parts = list(zip(grads.values(), gradients.tensors, strict=True))
        if mode in WHOLE:
            assert parallel(torch.cat([old for old, _ in parts]), torch.cat([new for _, new in parts]))
        elif mode == "value":
            limit = 0.3 * (images if per_image else 1)
            assert all(torch.equal(new, old.clamp(-limit, limit)) for old, new in parts)
        else:
            assert all(parallel(old, new) for old, new in parts)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1e20, 1e30, 3e38])
def test_norms_that_overflow_fp32_are_clipped_by_their_true_value(mode, size):
    rule = clipper(mode=mode, **MODES[mode])
    ordinary = {"a": torch.tensor([3.0, -4.0]), "b": torch.tensor([0.5])}
    for _ in range(30):
        rule.clip_(*measure(ordinary))
    grads = {"a": torch.tensor([0.6, -0.8]) * size, "b": torch.tensor([0.5])}
    gradients, observation = measure(grads)
    assert math.isinf(observation.tensor_norms[0])
    clip = rule.clip_(gradients, observation)
    after = norm64(gradients.tensors)
    assert after == pytest.approx(clip.scale * observation.norm, rel=1e-4)
    assert after > 0
    if mode not in ("none", "value", "agc"):
        assert clip.threshold < 20
        assert after <= clip.threshold * (1 + 1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_gradients_that_are_not_finite_are_left_alone(mode, bad):
    rule = clipper(mode=mode, **MODES[mode])
    for norm in (3.0, 4.0, 5.0):
        rule.clip_(*measure({"a": torch.tensor([norm]), "b": torch.tensor([1.0])}))
    before = rule.state_dict()
    gradients, observation = measure({"a": torch.tensor([bad, 1.0]), "b": torch.tensor([1e6])})
    clip = rule.clip_(gradients, observation)
    assert clip.scale == 1
    assert rule.state_dict() == before
    assert gradients.tensors[1].tolist() == [1e6]
    assert gradients.tensors[0].tolist()[1] == 1.0


@pytest.mark.parametrize("mode", MODES)
def test_no_gradients_and_zero_gradients(mode):
    rule = clipper(mode=mode, **MODES[mode])
    assert rule.clip_(*measure({})).scale == 1
    for _ in range(5):
        gradients, observation = measure({"a": torch.zeros(3)})
        assert rule.clip_(gradients, observation).scale == 1
    assert rule.clip_(*measure({"a": torch.ones(3)})).scale > 0


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("mode", ["norm", "none", "percentile", "zscore", "auto", "adagc"])
def test_does_not_synchronise(mode, staged):
    """Tensors of the meta device have no values: whatever reads one on the host raises."""
    stages = {"head": {"max_norm": 0.5}} if staged else {}
    rule = clipper(STAGES, mode=mode, warmup_steps=1, stages=stages)
    for size in (1.0, 1.0, 1e3):
        gradients, observation = measure({name: torch.full((3,), size) for name in STAGES})
        assert rule.clip_(on_meta(gradients), observation).scale <= 1


@pytest.mark.parametrize("mode", ["value", "agc"])
def test_value_and_agc_synchronise_to_report_their_scale(mode):
    gradients, observation = measure({"a": torch.full((3,), 9.0)})
    with pytest.raises((RuntimeError, NotImplementedError)):
        clipper(mode=mode).clip_(on_meta(gradients), observation)


def on_meta(gradients):
    return type(gradients)(
        gradients.names,
        [torch.nn.Parameter(parameter.to("meta")) for parameter in gradients.parameters],
        [tensor.to("meta") for tensor in gradients.tensors],
        gradients.norms.to("meta"),
        gradients.total.to("meta"),
    )
