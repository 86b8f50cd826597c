"""Rules for parts of the model, and norms per image."""

from __future__ import annotations

import json
import math

import pytest
import torch

from tests.clipping.measured import STAGES, clipper, feed, measure, step
from yolo_gradsafe.config_errors import ConfigError

POSE = {
    "model.0.weight": "backbone",
    "model.11.weight": "neck",
    "model.23.cv2.weight": "head.box",
    "model.23.cv3.weight": "head.class",
    "model.23.flow.weight": "head.flow",
}


def pose(**norms):
    """Gradients by stage; every stage not named has norm 1."""
    return {name: torch.tensor([0.6, -0.8]) * norms.get(stage.split(".")[-1], 1.0) for name, stage in POSE.items()}


def after(rule, grads, images=1):
    gradients, observation = measure(grads, images=images)
    clip = rule.clip_(gradients, observation)
    return clip, {
        POSE.get(name, name): float(t.double().norm())
        for name, t in zip(gradients.names, gradients.tensors, strict=True)
    }


def test_an_exploding_flow_does_not_scale_the_box_branch():
    _, plain = after(clipper(POSE), pose(flow=5e5))
    assert plain["head.box"] < 1e-4
    clip, norms = after(clipper(POSE, stages={"head.flow": {}}), pose(flow=5e5))
    assert norms["head.flow"] == pytest.approx(10)
    for stage in ("backbone", "neck", "head.box", "head.class"):
        assert norms[stage] == pytest.approx(1, rel=1e-6)
    assert clip.threshold == 10
    assert clip.scale == pytest.approx(math.hypot(10, 2) / math.hypot(5e5, 2))


def test_a_stage_takes_its_sub_stages_and_a_glob_takes_names():
    rule = clipper(POSE, stages={"*.flow.*": {"mode": "none"}, "head": {"max_norm": 0.5}}, max_norm=0.1)
    _, norms = after(rule, pose(flow=100.0))
    assert norms["head.flow"] == pytest.approx(100)
    assert math.hypot(norms["head.box"], norms["head.class"]) == pytest.approx(0.5, rel=1e-4)
    assert math.hypot(norms["backbone"], norms["neck"]) == pytest.approx(0.1, rel=1e-4)


def test_the_first_match_wins():
    rule = clipper(POSE, stages={"head.box": {"max_norm": 0.5}, "head": {"max_norm": 0.1}})
    _, norms = after(rule, pose())
    assert norms["head.box"] == pytest.approx(0.5, rel=1e-4)
    assert math.hypot(norms["head.class"], norms["head.flow"]) == pytest.approx(0.1, rel=1e-4)


def test_an_override_inherits_the_rest():
    rule = clipper(
        POSE,
        mode="auto",
        warmup_steps=0,
        auto={"window": 50, "sigma_floor": 0.2},
        stages={"head": {"auto": {"window": 9}}},
    )
    head, main = rule.parts["head"].baseline, rule.main.baseline
    assert (head.sigma_floor, head._norms.maxlen) == (0.2, 9)
    assert main._norms.maxlen == 50


def test_an_overflown_part_leaves_the_others_alone():
    clip, norms = after(clipper(POSE, stages={"head.flow": {}}), pose(flow=1e30))
    assert norms["head.flow"] == pytest.approx(10, rel=1e-4)
    assert norms["head.box"] == pytest.approx(1, rel=1e-6)
    assert clip.scale > 0


def test_a_part_without_gradients_is_no_fault():
    grads = {name: grad for name, grad in pose().items() if "flow" not in name}
    clip, _ = after(clipper(POSE, stages={"head.flow": {"mode": "zscore"}}), grads)
    assert clip.scale == 1


def test_parts_learn_apart_and_their_state_round_trips():
    options = {
        "mode": "auto",
        "warmup_steps": 5,
        "stages": {"head.flow": {"mode": "zscore"}, "backbone": {"mode": "adagc"}},
    }
    rule = clipper(POSE, **options)
    for number in range(30):
        after(rule, pose(flow=100 + number, backbone=2.0))
    twin = clipper(POSE, **options)
    twin.load_state_dict(json.loads(json.dumps(rule.state_dict(), allow_nan=False)))
    for grads in (pose(flow=1e5), pose(backbone=50.0), pose(box=1e3), pose(flow=130.0)):
        assert after(twin, grads) == after(rule, grads)
    with pytest.raises(ValueError, match="clipper state"):
        clipper(POSE, mode="auto", stages={"neck": {}}).load_state_dict(rule.state_dict())


def test_a_key_that_matches_nothing_is_an_error():
    with pytest.raises(ConfigError) as error:
        clipper(POSE, stages={"hed": {"max_norm": 1.0}})
    assert str(error.value) == (
        "clip.stages: 'hed' matches no stage and no parameter of this model. "
        "Stages: backbone, neck, head, head.box, head.class, head.flow. Did you mean 'head'?"
    )
    with pytest.raises(ConfigError, match=r"'head' matches no stage.*Stages: none known\.$"):
        clipper(None, stages={"head": {}})


def test_a_key_that_is_left_nothing_is_an_error():
    with pytest.raises(ConfigError, match=r"'head.box' is left nothing by 'head'.*put it first"):
        clipper(POSE, stages={"head": {}, "head.box": {"max_norm": 1.0}})
    with pytest.raises(ConfigError, match=r"'head' is left nothing by 'head.box', 'head.class', '\*flow\*'; the first"):
        clipper(POSE, stages={"head.box": {}, "head.class": {}, "*flow*": {}, "head": {}})


@pytest.mark.parametrize("mode", ["norm", "value", "agc", "percentile", "zscore", "adagc", "auto"])
def test_per_image_means_the_same_at_any_batch_size(mode):
    options = {"mode": mode, "per_image": True, "max_norm": 0.5, "warmup_steps": 10}
    small, large = clipper(**options), clipper(**options)
    for norm in [1.0, 1.2, 0.9, 0.1, 1.1] * 6 + [30.0, 1.0, 300.0]:
        left, right = step(small, 4 * norm, images=4), step(large, 16 * norm, images=16)
        assert right.scale == pytest.approx(left.scale, rel=1e-5)
        assert right.threshold == pytest.approx(4 * left.threshold, rel=1e-5), "not in units of the real norm"
    assert left.scale < 1


def test_per_image_adapts_when_the_batch_is_halved():
    rule = clipper(mode="auto", per_image=True, warmup_steps=10)
    for _ in range(60):
        step(rule, 16.0, images=16)
    assert step(rule, 8.0, images=8).threshold == pytest.approx(step(rule, 16.0, images=16).threshold / 2, rel=1e-3)


def test_per_image_reaches_the_parts():
    rule = clipper(STAGES, per_image=True, max_norm=1.0, stages={"head": {"max_norm": 2.0}})
    gradients, observation = measure({name: torch.tensor([1e3]) for name in STAGES}, images=8)
    clip = rule.clip_(gradients, observation)
    assert clip.threshold == 8
    assert float(torch.cat(gradients.tensors[2:]).norm()) == pytest.approx(16, rel=1e-5)


def test_without_per_image_the_images_do_not_matter():
    rule = clipper(max_norm=2.0)
    assert step(rule, 8.0, images=4) == step(rule, 8.0, images=64)
    assert [clip.scale for clip in feed(rule, [1.0, 4.0])] == pytest.approx([1.0, 0.5])


def test_what_no_part_clips_has_a_scale_of_exactly_one():
    rule = clipper(STAGES, max_norm=1e9, stages={"head.box": {}, "backbone": {}, "neck": {}})
    torch.manual_seed(0)
    for _ in range(50):
        grads = {name: torch.randn(5) for name in STAGES}
        gradients, observation = measure(grads)
        assert rule.clip_(gradients, observation).scale == 1.0
        assert all(torch.equal(t, g) for t, g in zip(gradients.tensors, grads.values(), strict=True))


def test_gradients_that_are_all_zero_are_no_fault():
    rule = clipper(STAGES, stages={"head": {}})
    clip = rule.clip_(*measure({name: torch.zeros(2) for name in STAGES}))
    assert clip.scale == 1.0
