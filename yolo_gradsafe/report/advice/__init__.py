"""Advice: which settings to change, by rules that look at recorded facts only. A healthy run gets none."""

from __future__ import annotations

import logging
from collections.abc import Callable

from yolo_gradsafe.report.advice import amp, batchnorm, clip, data, learning, learning_rate, own_code, schedule, stages
from yolo_gradsafe.report.advice.facts import Facts
from yolo_gradsafe.report.parts import Advice
from yolo_gradsafe.telemetry.schema import Learned, Shortfall

__all__ = ["RULES", "Facts", "advise"]

RULES: tuple[Callable[[Facts], Advice | None], ...] = (
    own_code.broken,
    learning_rate.too_high,
    learning_rate.warm_up,
    learning_rate.muon,
    learning.loss_zero,
    learning.branch_silent,
    learning.rate,
    learning.rate_too_low,
    learning.layer_died,
    learning.steps_skipped,
    learning.too_few_steps,
    learning.overfitting,
    learning.slow,
    learning.never_rose,
    amp.overflows,
    batchnorm.poisoned,
    batchnorm.lags,
    data.quarantined,
    data.broken_images,
    data.accumulation,
    stages.dominating,
    stages.vanishing,
    schedule.close_mosaic,
    clip.below,
    clip.above,
)
"""The rules, what matters most first; each gives one piece of advice or none."""


def advise(facts: Facts) -> list[Advice]:
    """Apply every rule, except to a healthy run whose model is good.

    A rule that fails is logged, because a report must not be lost for it.
    """
    good = facts.learning.learned is Learned.YES or facts.because(Shortfall.GOOD_FROM_THE_START)
    if facts.healthy and good:
        return []
    found = []
    for rule in RULES:
        try:
            found.append(rule(facts))
        except Exception:
            logging.getLogger(__name__).warning("the rule %s failed", rule.__qualname__, exc_info=True)
    return [advice for advice in found if advice]
