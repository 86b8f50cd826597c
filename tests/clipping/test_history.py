"""What the adaptive rules remember: no NaN, no spike, every new level."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from tests.clipping.measured import ADAPTIVE, clipper, feed, measure, step

PATIENCE, WARMUP = 20, 50
# AutoClip's own ten scales nine steps in ten by design; 95 makes 'clipped' mean 'large'.
OPTIONS = {"warmup_steps": WARMUP, "patience": PATIENCE, "max_norm": 1e9, "percentile": {"percentile": 95.0}}


def usual(count, level=10.0, spread=0.15, seed=0):
    return np.exp(np.random.default_rng(seed).normal(math.log(level), spread, count))


@pytest.fixture(params=ADAPTIVE)
def rule(request):
    return clipper(mode=request.param, **OPTIONS)


def test_the_constant_rule_holds_in_the_warm_up(rule):
    rule = clipper(mode="auto", **{**OPTIONS, "max_norm": 10.0})
    clips = feed(rule, [5.0, 40.0] * (WARMUP // 2))
    assert {clip.threshold for clip in clips} == {10.0}
    assert [clip.scale for clip in clips] == pytest.approx([1.0, 0.25] * (WARMUP // 2))
    assert step(rule, 5.0).threshold != 10.0


def test_nan_inf_and_zero_leave_the_rule_working(rule):
    norms = usual(200)
    bad = [math.nan, math.inf, -math.inf, 0.0]
    other = clipper(mode=type_of(rule), **OPTIONS)
    for index, norm in enumerate(norms):
        left, right = step(rule, norm), step(other, norm)
        assert left == right
        step(rule, bad[index % 4])
    assert step(rule, 1e4).scale < 0.01


def test_a_spike_is_clipped_and_does_not_move_the_baseline(rule):
    feed(rule, usual(200))
    before = step(rule, 10.0).threshold
    spike = step(rule, 1e5)
    assert spike.scale < 2e-3
    after = step(rule, 10.0).threshold
    assert after == pytest.approx(before, rel=0.08)


def test_a_burst_of_spikes_is_clipped_to_its_end(rule):
    feed(rule, usual(200))
    clips = feed(rule, [1e5] * (PATIENCE - 1))
    assert max(clip.scale for clip in clips) < 2e-3
    assert step(rule, 10.0).threshold < 40


def test_a_spike_in_the_warm_up_does_not_disable_the_rule(rule):
    feed(rule, [*usual(20), 5e5, *usual(WARMUP - 21, seed=1)])
    feed(rule, usual(50, seed=2))
    assert step(rule, 1e3).scale < 0.1


@pytest.mark.parametrize("shift", [3.0, 1 / 3, 30.0, 1e-3])
@pytest.mark.parametrize("spread", [0.05, 0.15])
def test_a_level_shift_is_released_within_patience(rule, shift, spread):
    feed(rule, usual(300, spread=spread))
    feed(rule, usual(PATIENCE, 10 * shift, spread=spread, seed=1))
    level = 10 * shift
    clips = feed(rule, [level] * 5)
    assert min(clip.scale for clip in clips) > 0.75, "still held to the old level"
    assert max(step(rule, 20 * level).scale for _ in range(3)) < 0.35, "no longer guarded at the new level"


@pytest.mark.parametrize("shift", [3.0, 1 / 3])
def test_a_noisy_level_shift_is_released_within_twice_patience(rule, shift):
    feed(rule, usual(300, spread=0.3))
    feed(rule, usual(2 * PATIENCE, 10 * shift, spread=0.3, seed=1))
    clips = feed(rule, [10 * shift] * 5)
    assert min(clip.scale for clip in clips) > 0.75
    assert step(rule, 300 * shift).scale < 0.35


def test_rare_spikes_are_never_taken_for_a_level(rule):
    feed(rule, usual(200))
    for block in range(40):
        feed(rule, usual(3, seed=block))
        assert step(rule, 1e4).scale < 0.01


def test_norms_that_hardly_vary_are_not_clipped(rule):
    clips = feed(rule, usual(400, spread=0.01))
    share = sum(clip.scale < 0.99 for clip in clips) / len(clips)
    assert share < (0.1 if type_of(rule) == "percentile" else 0.01)


@pytest.mark.parametrize("after", [10, WARMUP + 7, 300])
def test_state_goes_through_json_and_goes_on_identically(rule, after):
    norms = [*usual(after), 300.0, 310.0, 2.0]
    feed(rule, norms)
    state = json.loads(json.dumps(rule.state_dict(), allow_nan=False))
    twin = clipper(mode=type_of(rule), **OPTIONS)
    twin.load_state_dict(state)
    assert twin.state_dict() == rule.state_dict()
    future = [*usual(60, seed=3), *usual(60, 40.0, seed=4), 1e6, *usual(60, 3.0, seed=5)]
    assert feed(twin, future) == feed(rule, future)


@pytest.mark.parametrize("mode", [*ADAPTIVE, "norm", "none", "value", "agc"])
def test_a_damaged_state_is_refused(mode):
    rule = clipper(mode=mode, **OPTIONS)
    feed(rule, usual(60))
    state = rule.state_dict()
    fresh = clipper(mode=mode, **OPTIONS)
    for damaged in ({**state, "more": 1}, [], None, *({k: v for k, v in state.items() if k != key} for key in state)):
        with pytest.raises(ValueError, match="clipper state"):
            fresh.load_state_dict(damaged)


@pytest.mark.parametrize("bad", [math.nan, "3", True, -1.0, None])
@pytest.mark.parametrize(
    ("mode", "path"),
    [
        ("auto", ("baseline", "norms", 0)),
        ("percentile", ("baseline", "norms", 5)),
        ("zscore", ("baseline", "mean")),
        ("zscore", ("baseline", "variance")),
        ("adagc", ("tensors", "a.weight", "usual")),
        ("adagc", ("tensors", "a.weight", "seen")),
        ("auto", ("shift", "step")),
    ],
)
def test_a_value_that_cannot_be_is_refused(mode, path, bad):
    rule = clipper(mode=mode, **OPTIONS)
    feed(rule, usual(60))
    state = json.loads(json.dumps(rule.state_dict()))
    inner = state
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = bad
    with pytest.raises(ValueError, match="clipper state"):
        clipper(mode=mode, **OPTIONS).load_state_dict(state)


def test_adagc_lets_a_tensor_train_again_that_had_no_gradient():
    rule = clipper(mode="adagc", **OPTIONS)
    quiet, loud = {"a": torch.zeros(2), "b": torch.ones(2)}, {"a": torch.ones(2), "b": torch.ones(2)}
    for _ in range(WARMUP + 10):
        rule.clip_(*measure(quiet))
    gradients, observation = measure(loud)
    rule.clip_(gradients, observation)
    assert gradients.tensors[0].tolist() == [1.0, 1.0]


def test_adagc_clips_only_the_tensor_that_spikes():
    rule = clipper(mode="adagc", **OPTIONS)
    for _ in range(WARMUP + 10):
        rule.clip_(*measure({"a": torch.ones(2), "b": torch.ones(2)}))
    gradients, observation = measure({"a": torch.ones(2) * 100, "b": torch.ones(2)})
    clip = rule.clip_(gradients, observation)
    assert gradients.tensors[0].tolist() == pytest.approx([1.05, 1.05])
    assert gradients.tensors[1].tolist() == [1.0, 1.0]
    assert clip.threshold == pytest.approx(1.05 * 2)


def type_of(rule) -> str:
    """Return the mode of a clipper that was built by the fixture."""
    name = type(getattr(rule, "baseline", rule)).__name__
    return {
        "AutoClipBaseline": "percentile",
        "ZClipBaseline": "zscore",
        "AutoBaseline": "auto",
        "AdaGCClipper": "adagc",
    }[name]
