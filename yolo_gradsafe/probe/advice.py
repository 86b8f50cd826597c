"""From findings to settings: which clip value, which learning rate, whether AMP, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator

from yolo_gradsafe.probe.lr_range import LEARNED
from yolo_gradsafe.probe.parts import Headroom, Init, LrRange, Norms, Setup, brief, rounded
from yolo_gradsafe.probe.result import Advice
from yolo_gradsafe.probe.steps import STOCK_MAX_NORM

__all__ = ["advise", "clip_value", "first_lr", "headline"]

SCALE_FREE = {"Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop"}
"""Optimizers that divide by the gradient's typical size: how hard all of them are clipped hardly matters there."""


def advise(setup: Setup, init: Init, lr_range: LrRange, norms: Norms, headroom: Headroom) -> Advice:
    """Turn what was found into settings."""
    max_norm, why = clip_value(setup.optimizer, norms)
    return Advice(
        max_norm=max_norm,
        max_norm_reason=why,
        lr0=norms.lr,
        lr0_reason=_lr0_reason(lr_range, norms, setup.lr0),
        amp=headroom.fp16 != "unsafe",
        amp_reason=headroom.reason,
        notes=list(_notes(setup, init, lr_range, norms, headroom)),
    )


def headline(init: Init, advice: Advice, setup: Setup, headroom: Headroom) -> str:
    """Say the answer in a sentence."""
    return (
        f"{init.verdict.capitalize()} at initialisation; lr0={advice.lr0:g} with {setup.optimizer}, "
        f"clip.max_norm={advice.max_norm:g}, fp16 AMP is {headroom.fp16}."
    )


def first_lr(lr_range: LrRange, lr0: float) -> float:
    """Return the learning rate to try first.

    Args:
        lr_range: The range test.
        lr0: What training would start from without the test; kept, if it is safe, where the test saw no learning.
    """
    if lr_range.descent < LEARNED:
        return rounded(min(lr0, (lr_range.lr_diverges or 1.0) / 10))
    return rounded(lr_range.lr_suggested)


def clip_value(optimizer: str, norms: Norms) -> tuple[float, str]:
    """Return the norm to clip at, and why.

    The learning rate was found with the gradients clipped at 10, so where their size sets that of a step (SGD, MuSGD)
    a threshold that is always exceeded must stay what it is.
    """
    if norms.p95 is None or norms.p99 is None:
        return STOCK_MAX_NORM, "No gradient norm was finite, so stock's value stays."
    if norms.p99 < STOCK_MAX_NORM:
        return rounded(norms.p99), "Clips 1 % of the steps, the outliers; stock's 10 would clip none of them."
    if norms.p95 <= STOCK_MAX_NORM:
        return STOCK_MAX_NORM, "Stock's value clips between 1 and 5 % of the steps, the outliers."
    clips = f"stock's 10 clips {100 * norms.over_stock:.0f} %"
    if optimizer in SCALE_FREE:
        return rounded(norms.p95), f"Clips 5 % of the steps, the outliers; {clips}."
    return STOCK_MAX_NORM, (
        f"{clips.capitalize()} of the steps and so sets their length; the learning rate was found with it."
    )


def _lr0_reason(lr_range: LrRange, norms: Norms, lr0: float) -> str:
    broke = (
        f"training breaks down at {brief(lr_range.lr_diverges)} ({lr_range.diverges_by})"
        if lr_range.lr_diverges
        else "nothing broke down up to 1"
    )
    if lr_range.descent < LEARNED:
        found = f"The test saw no learning, so this is your {lr0:g}, if that is safe; {broke}"
    else:
        steepest, lowest = brief(lr_range.lr_steepest), brief(lr_range.lr_lowest)
        found = f"The loss falls steepest at {steepest}, is lowest at {lowest}; {broke}"
    tried = f"{len(norms.norm)} steps at it held" if norms.held else f"{len(norms.norm)} steps at it did not hold"
    return f"{found}; {tried}."


def _notes(setup: Setup, init: Init, lr_range: LrRange, norms: Norms, headroom: Headroom) -> Iterator[str]:
    if init.verdict != "healthy":
        yield f"Mend the initialisation first ({init.verdict}): what follows was measured on it."
    if setup.optimizer_auto:
        yield f"optimizer=auto ignores lr0: set optimizer={setup.optimizer}."
    if setup.optimizer == "MuSGD":
        yield "MuSGD orthogonalises its Muon part, whose size clipping does not change: there only lr0 helps."
    if setup.optimizer not in SCALE_FREE and norms.p95 is not None and norms.p95 > STOCK_MAX_NORM and norms.median:
        lr0 = rounded(norms.lr * STOCK_MAX_NORM / norms.median)
        yield (
            f"Steps as long that clip 5 % only: clip.max_norm={rounded(norms.p95):g} with lr0={lr0:g}. "
            "A higher threshold with the same lr0 makes longer steps."
        )
    if not norms.held:
        yield f"Even lr0={norms.lr:g} did not hold in a short training: look at the model and the data first."
    if headroom.fp16 != "safe" and headroom.bf16 == "safe":
        yield "bf16 has the range of fp32: amp=bf16, on a GPU that has it and Ultralytics from 8.4.129 on."
    if headroom.scale_search:
        yield (
            f"Under fp16 a GradScaler would skip about {headroom.scale_search} of the first steps, while its scale "
            f"falls from 65536 to {headroom.loss_scale:g}; that is routine."
        )
    if odd := [layer.name for layer in init.unnormalised if not layer.expected]:
        yield f"Convolutions without normalisation: {', '.join(odd[:5])}{' and more' if len(odd) > 5 else ''}."
    if init.dead_share > 0.05:
        yield f"{100 * init.dead_share:.0f} % of the activation channels are dead, most of them in {init.dead[0].name}."
