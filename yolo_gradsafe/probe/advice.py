"""From findings to settings: which learning rate, which clip value, whether AMP, each with its reason.

Only what a trial has shown to be better is recommended; the user's learning rate and stock's clip stay otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from yolo_gradsafe.probe.parts import Arm, Comparison, Headroom, Init, LrRange, Norms, Setup, Trial, brief, rounded
from yolo_gradsafe.probe.result import Advice
from yolo_gradsafe.probe.steps import STOCK_MAX_NORM
from yolo_gradsafe.report.advice.facts import SCALE_FREE

__all__ = ["CLOSE", "advise", "clip_to_try", "headline", "lr_to_try"]

CLOSE = 1.5
"""Values that differ by less are not worth a trial."""


def advise(
    setup: Setup, init: Init, lr_range: LrRange, trial: Trial | None, norms: Norms, headroom: Headroom
) -> Advice:
    """Turn what was found into settings.

    Args:
        setup: What the experiment was made with.
        init: Flow at initialisation.
        lr_range: The range test.
        trial: The short trainings; None where there was no time for them.
        norms: Gradient norms with the settings that are recommended.
        headroom: Room that half precision leaves.
    """
    best = trial.best if trial else None
    return Advice(
        max_norm=best.max_norm if best else STOCK_MAX_NORM,
        max_norm_reason=_clip_reason(setup, trial, norms),
        lr0=best.lr0 if best else setup.lr0,
        lr0_reason=_lr0_reason(setup, lr_range, trial),
        amp=headroom.fp16 != "unsafe",
        amp_reason=headroom.reason,
        notes=list(_notes(setup, init, lr_range, trial, norms, headroom)),
    )


def headline(
    init: Init, lr_range: LrRange, trial: Trial | None, advice: Advice, setup: Setup, headroom: Headroom
) -> str:
    """Say the answer in a few short sentences."""
    new_rate, new_clip = advice.lr0 != setup.lr0, advice.max_norm != STOCK_MAX_NORM
    rate, clip = f"lr0={advice.lr0:g} with {setup.optimizer}", f"clip.max_norm={advice.max_norm:g}"
    settings = [rate] * new_rate + [clip] * new_clip
    if trial is not None and _died(trial.best):
        said = "Training broke down in the short trainings, whatever was tried."
    elif settings:
        said = f"Set {' and '.join(settings)}: better in short trainings."
    elif _over_the_edge(advice.lr0, lr_range):
        said = f"lr0={setup.lr0:g} looks too high, but no other rate was shown to be better."
    else:
        said = f"Keep your settings: lr0={advice.lr0:g}, clip.max_norm={advice.max_norm:g}."
    return f"{init.verdict.capitalize()} at initialisation. {said} fp16 AMP is {headroom.fp16}."


def lr_to_try(lr_range: LrRange, lr0: float) -> float | None:
    """Return the learning rate to try beside the user's; None where the user's is close to it."""
    suits = rounded(lr_range.lr_suggested)
    return None if lr0 / CLOSE <= suits <= lr0 * CLOSE else suits


def clip_to_try(optimizer: str, norms: Norms) -> float | None:
    """Return the norm to try to clip at beside stock's 10; None where 10 is right.

    Where the size of the gradients sets that of a step (SGD, MuSGD), a threshold that is always exceeded is a part of
    the learning rate, and stays.
    """
    if norms.p95 is None or norms.p99 is None:
        return None
    if norms.p99 < STOCK_MAX_NORM / CLOSE:
        return rounded(norms.p99)
    if norms.p95 > STOCK_MAX_NORM * CLOSE and optimizer in SCALE_FREE:
        return rounded(norms.p95)
    return None


def _lr0_reason(setup: Setup, lr_range: LrRange, trial: Trial | None) -> str:
    edge = (
        f"The range test breaks down at {brief(lr_range.lr_diverges)}: {lr_range.diverges_by}."
        if lr_range.lr_diverges
        else "The range test did not break down up to 1."
    )
    if trial and trial.lr0 and trial.lr0_against_yours:
        tried = _outcome(f"lr0={trial.lr0.lr0:g}", f"your {setup.lr0:g}", trial.lr0_against_yours)
        return f"{tried} {edge}"
    suits = lr_to_try(lr_range, setup.lr0)
    if suits is None:
        return f"Your {setup.lr0:g} is close to the largest rate that suits, {brief(lr_range.lr_suggested)}. {edge}"
    if trial is None:
        return f"There was no time to try {suits:g}, so yours stays. {edge}"
    return (
        f"Rates up to {suits:g} look safe. Short trainings cannot tell whether your longer one gains from a higher "
        f"rate, so yours stays. {edge}"
    )


def _clip_reason(setup: Setup, trial: Trial | None, norms: Norms) -> str:
    if trial and trial.max_norm and trial.max_norm_against_stock:
        return _outcome(f"max_norm={trial.max_norm.max_norm:g}", "stock's 10", trial.max_norm_against_stock)
    if norms.p95 is None or norms.p99 is None:
        return "No gradient norm was finite, so stock's value stays."
    clips = f"Stock's 10 clips {100 * norms.over_stock:.0f} % of the steps"
    if setup.optimizer not in SCALE_FREE and norms.p95 > STOCK_MAX_NORM:
        return f"{clips}. With {setup.optimizer} another value would change the length of every step."
    if clip_to_try(setup.optimizer, norms) is not None:
        missing = "time to try another value" if trial is None else "time to try another value at your accumulation"
        return f"{clips}. There was no {missing}, so it stays."
    return f"{clips}, the outliers." if norms.over_stock else f"{clips}."


def _outcome(suggestion: str, base: str, found: Comparison) -> str:
    """Say what came of a comparison."""
    if found.verdict == "both_died":
        return f"Training broke down with {base} and with {suggestion}."
    if found.candidate is None:
        return f"Training broke down with {suggestion}, not with {base}."
    if found.base is None or found.spread is None:
        return f"Training broke down with {base}, not with {suggestion}."
    losses = f"{suggestion} ended at a validation loss of {found.candidate:.4g}, {base} at {found.base:.4g}"
    if found.verdict == "same":
        return f"{losses}: seeds differ by as much ({found.spread:.2g})."
    return f"{losses}: {found.verdict} by more than seeds differ ({found.spread:.2g})."


def _notes(
    setup: Setup, init: Init, lr_range: LrRange, trial: Trial | None, norms: Norms, headroom: Headroom
) -> Iterator[str]:
    if init.verdict != "healthy":
        yield f"Fix the initialisation first ({init.verdict}): what follows was measured on it."
    if setup.optimizer_auto:
        yield f"optimizer=auto ignores lr0: set optimizer={setup.optimizer}."
    if trial is None:
        yield "There was no time for short trainings: nothing was verified. Give a larger --budget."
    elif _died(trial.best):
        yield "Even the best of the short trainings broke down: look at the model and the data first."
    recommended = trial.best.lr0 if trial else setup.lr0
    if lr_range.lr_diverges is not None and _over_the_edge(recommended, lr_range):
        yield f"lr0={recommended:g} is at or above {brief(lr_range.lr_diverges)}, where the range test breaks down."
    if setup.optimizer == "MuSGD":
        yield "MuSGD orthogonalises its Muon part, whose size clipping does not change: there only lr0 helps."
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
    if trial is not None and not norms.held and not _died(trial.best):
        yield "The loss did not fall in the short trainings: they tell little."


def _over_the_edge(lr0: float, lr_range: LrRange) -> bool:
    return lr_range.lr_diverges is not None and lr0 >= lr_range.lr_diverges


def _died(arm: Arm) -> bool:
    return not all(map(math.isfinite, arm.final))
