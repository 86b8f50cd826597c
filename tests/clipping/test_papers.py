"""Each rule does what its paper says, on sequences where we do not deviate from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.clipping.measured import clipper, feed, measure, step

RNG = np.random.default_rng(7)
NO_SIGNAL = RNG.uniform(8, 12, 25)
WILD = np.exp(RNG.normal(np.log(10), 0.5, 300))


@pytest.mark.parametrize("norm", [1e-3, 9.99, 10.0, 10.000001, 11.0, 1e6, 1e18])
def test_norm_is_torch_bit_for_bit(norm):
    grads = {name: torch.randn(size) for name, size in [("a", (5, 3)), ("b", (7,)), ("c", ())]}
    total = torch.cat([grad.flatten() for grad in grads.values()]).norm()
    grads = {name: grad * (norm / total) for name, grad in grads.items()}
    gradients, observation = measure(grads)
    ours = clipper(mode="norm").clip_(gradients, observation)
    expected, _ = measure(grads)
    torch.nn.utils.clip_grad_norm_(expected.parameters, 10.0)
    for mine, stock in zip(gradients.tensors, expected.parameters, strict=True):
        assert torch.equal(mine, stock.grad)
    assert ours.scale == pytest.approx(min(1, 10 / norm))
    assert ours.threshold == 10.0


def test_none_changes_nothing():
    gradients, observation = measure({"a": torch.full((3,), 1e9)})
    clip = clipper(mode="none").clip_(gradients, observation)
    assert clip.scale == 1
    assert clip.threshold == float("inf")
    assert torch.equal(gradients.tensors[0], torch.full((3,), 1e9))


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_value_is_torch_bit_for_bit(size):
    grads = {"a": torch.randn(50) * size, "b": torch.randn(4, 4) * size / 10}
    gradients, observation = measure(grads)
    clip = clipper(mode="value", value={"limit": 0.5}).clip_(gradients, observation)
    expected, _ = measure(grads)
    torch.nn.utils.clip_grad_value_(expected.parameters, 0.5)
    for mine, stock in zip(gradients.tensors, expected.parameters, strict=True):
        assert torch.equal(mine, stock.grad)
    after = torch.cat([tensor.flatten() for tensor in gradients.tensors]).norm()
    assert clip.scale == pytest.approx(min(1, float(after) / observation.norm), rel=1e-5)


@pytest.mark.parametrize("percentile", [10.0, 50.0, 97.5])
def test_percentile_is_autoclip(percentile):
    rule = clipper(mode="percentile", warmup_steps=60, patience=10**6, percentile={"percentile": percentile})
    for index, clip in enumerate(feed(rule, WILD)[60:], 60):
        threshold = np.percentile(WILD[: index + 1], percentile)
        assert clip.threshold == pytest.approx(threshold, rel=1e-5)
        assert clip.scale == pytest.approx(min(1, threshold / WILD[index]), rel=1e-5)


def zclip(warmup, norms, z=2.5, alpha=0.97):
    """Reference: bluorion/ZClip, reciprocal clipping, without ``max_grad_norm``."""
    mean, variance = np.mean(warmup), np.var(warmup)
    for norm in norms:
        sigma = np.sqrt(variance)
        score = (norm - mean) / (sigma + 1e-6)
        kept = mean + z * sigma / (score / z) if score > z else norm
        mean = alpha * mean + (1 - alpha) * kept
        variance = alpha * variance + (1 - alpha) * (kept - mean) ** 2
        yield kept


def test_zscore_is_zclip():
    rule = clipper(mode="zscore", warmup_steps=25, max_norm=1e9, patience=10**6, zscore={"sigma_floor": 0.0})
    feed(rule, NO_SIGNAL)
    clips = feed(rule, WILD)
    kept = [clip.scale * norm for clip, norm in zip(clips, WILD, strict=True)]
    assert kept == pytest.approx(list(zclip(NO_SIGNAL, WILD)), rel=1e-4)
    assert sum(clip.scale < 1 for clip in clips) > 10


def test_zscore_takes_the_papers_max_grad_norm_as_ceiling():
    rule = clipper(mode="zscore", warmup_steps=25, max_norm=1e9, ceiling=1.0)
    feed(rule, NO_SIGNAL)
    clip = step(rule, 9.0)
    assert clip.threshold == 1.0
    assert clip.scale == pytest.approx(1 / 9)


def adagc(steps, warmup, limit=10.0, factor=1.05, beta=0.98):
    """Reference: algorithm 1 of arXiv 2502.11034; yields the norms after clipping."""
    usual = np.full(len(steps[0]), np.inf)
    for number, norms in enumerate(steps):
        if number < warmup:
            kept = norms * min(1, limit / np.linalg.norm(norms))
            usual = np.minimum(usual, kept)
        else:
            kept = np.minimum(1, factor * usual / norms) * norms
            usual = beta * usual + (1 - beta) * kept
        yield kept


def test_adagc_is_the_papers():
    steps = np.exp(RNG.normal(np.log([0.1, 3.0, 20.0]), 0.4, (300, 3)))
    rule = clipper(mode="adagc", warmup_steps=50, patience=10**6)
    for number, (norms, kept) in enumerate(zip(steps, adagc(steps, 50), strict=True)):
        grads = {name: torch.tensor([0.6, -0.8]) * norm for name, norm in zip("abc", norms, strict=True)}
        gradients, observation = measure(grads)
        clip = rule.clip_(gradients, observation)
        assert [float(t.norm()) for t in gradients.tensors] == pytest.approx(list(kept), rel=1e-4)
        assert clip.scale == pytest.approx(np.linalg.norm(kept) / np.linalg.norm(norms), rel=1e-5)
        assert clip.threshold >= np.linalg.norm(kept) * (1 - 1e-6)
        assert (clip.threshold == 10.0) == (number < 50), "in the warm-up it is stock's"


def test_auto_is_median_and_mad_of_the_logs():
    rule = clipper(mode="auto", warmup_steps=25, patience=10**6, auto={"window": 60, "deviations": 2.0})
    feed(rule, NO_SIGNAL)
    seen = list(NO_SIGNAL)
    for norm in WILD:
        logs = np.log(seen[-60:])
        spread = max(1.4826 * np.median(np.abs(logs - np.median(logs))), 0.1)
        threshold = np.exp(np.median(logs) + 2 * spread)
        clip = step(rule, float(norm))
        assert clip.threshold == pytest.approx(threshold, rel=1e-5)
        assert clip.scale == pytest.approx(min(1, threshold / norm), rel=1e-5)
        seen.append(norm)
