"""The panels of ``probe.png``, one function each: depth, learning-rate range, movement, trial, norms, headroom.

Red marks what is dangerous. The other colours are Okabe and Ito's, which colour-blind readers tell apart.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from yolo_gradsafe.judge.movement import SUITABLE
from yolo_gradsafe.probe.headroom import FP16_MAX, TIGHT
from yolo_gradsafe.probe.lr_range import LOWEST
from yolo_gradsafe.probe.parts import Headroom, Init, LrRange, Norms, Trial
from yolo_gradsafe.probe.steps import STOCK_MAX_NORM
from yolo_gradsafe.report.look import BLUE, DARK, GREEN, GREY, ORANGE, PURPLE, RED, plain_log_ticks

__all__ = ["GREEN", "GREY", "RED", "depth", "headroom", "lr_range", "movement", "norms", "trial"]

CEILING = 1.6
"""Losses beyond this many times the largest smoothed one are marked at the edge: the curve is to be read."""

Array = npt.NDArray[np.float64]


def depth(axes: Axes, init: Init) -> None:
    """Draw gradient norms and activations over the layers, the head's parts after the last layer."""
    body = [layer for layer in init.layers if not layer.in_head]
    head = [layer for layer in init.layers if layer.in_head]
    x = np.arange(len(init.layers)) + np.array([0.0] * len(body) + [0.7] * len(head))
    gradient = _floats(layer.gradient for layer in init.layers)
    output = _floats(layer.output_gradient for layer in init.layers)
    std = _floats(layer.activation_std for layer in init.layers)
    _log_y(axes, np.concatenate([gradient, output, std]))
    axes.margins(y=0.12)
    for values, color, label in (
        (gradient, BLUE, "weights' grad"),
        (output, ORANGE, "output's grad"),
        (std, PURPLE, "activation std"),
    ):
        seen = np.isfinite(values) & (values > 0)
        inner = seen & (np.arange(len(x)) < len(body))
        axes.plot(x[inner], values[inner], marker=".", markersize=7, color=color, linewidth=1.4, label=label)
        outer = seen & ~inner
        axes.plot(x[outer], values[outer], marker="D", markersize=5, color=color, linestyle="")
    chain = sum(layer.in_chain for layer in init.layers)
    if len(body) > 1 and chain:
        axes.axvspan(-0.5, chain - 0.5, color="#f4f4f4", zorder=0, linewidth=0)
        axes.text(0.0, 0.94, "chain", transform=axes.get_xaxis_transform(), color=GREY, fontsize=9)
    every = max(1, math.ceil(len(body) / 12))
    marks = [i for i in range(len(body)) if i % every == 0]
    names = [layer.name.rpartition(".")[2].replace("one2one", "o2o") for layer in init.layers]
    axes.set_xticks([*x[marks], *x[len(body) :]], [*(names[i] for i in marks), *names[len(body) :]])
    for tick in axes.get_xticklabels()[len(marks) :]:
        tick.set(rotation=50, ha="right", rotation_mode="anchor", fontsize=8.5)
    what = "layer, from the image to the head" + (" and its parts" if head else "")
    axes.set_xlabel(f"{what}\n{textwrap.fill(init.reason, 80)}", fontsize=10.5, parse_math=False)
    _heading(axes, f"initialisation: {init.verdict}", GREEN if init.verdict == "healthy" else RED)


def lr_range(axes: Axes, found: LrRange, lr0: float) -> None:
    """Draw the loss over the growing learning rate, with the one that is suggested and the one that breaks."""
    lr, loss = np.asarray(found.lr), _floats(found.loss)
    axes.set_xscale("log")
    low, high = _window(found)
    inside = loss <= high
    axes.plot(lr[inside], loss[inside], ".", color=GREY, markersize=6, label="batch")
    style: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "linestyle": "", "markersize": 6, "zorder": 3}
    axes.plot(lr[~inside], np.full(int((~inside).sum()), 0.97), marker="^", color=GREY, **style)
    axes.plot(lr[: len(found.smoothed)], found.smoothed, color=BLUE, linewidth=2, label="smoothed")
    axes.set_ylim(low, high)
    axes.set_ylabel("loss an image")
    axes.grid(axis="y", color="#ebebeb")
    _rates(axes, found, lr0)
    _heading(axes, "learning-rate range test")


def movement(axes: Axes, found: LrRange, lr0: float) -> None:
    """Draw how far steps move the weights over the growing learning rate."""
    lr, ratio = np.asarray(found.lr), 100 * _floats(found.ratio)
    axes.set_xscale("log")
    seen = np.isfinite(ratio) & (ratio > 0)
    _log_y(axes, ratio[seen] if seen.any() else np.array([1.0]))
    axes.plot(lr[seen], ratio[seen], color=BLUE, linewidth=2, label="step")
    axes.axhline(100 * SUITABLE, color=GREY, linewidth=1.4, linestyle="--", label=f"suits {100 * SUITABLE:g} %")
    axes.set_ylabel("change of the weights a step, %")
    _rates(axes, found, lr0)
    _heading(axes, "movement of the weights")


def trial(axes: Axes, found: Trial | None) -> None:
    """Draw the validation loss of each arm over the steps: a line for the mean, a dot for each seed."""
    if found is None:
        axes.text(0.5, 0.5, "no time for short trainings", transform=axes.transAxes, ha="center", color=GREY)
    else:
        for arm, color, name in (
            (found.yours, GREY, "yours"),
            (found.lr0, BLUE, "lr0"),
            (found.max_norm, PURPLE, "clip"),
        ):
            if arm is None:
                continue
            losses = np.array([_floats(course.held_out) for course in arm.courses])
            setting = f"{arm.max_norm:g}" if name == "clip" else f"{arm.lr0:g}"
            best = arm is found.best
            axes.plot(
                found.at, losses.mean(axis=0), color=color, linewidth=3 if best else 1.8, label=f"{name} {setting}"
            )
            axes.plot(found.at * len(losses), losses.ravel(), ".", color=color, markersize=7)
        axes.set_xlabel(
            f"optimizer steps of {found.batches} batch{'es' * (found.batches > 1)}; thick: what to train with"
        )
    axes.set_ylabel("validation loss an image")
    axes.grid(axis="y", color="#ebebeb")
    _heading(axes, "short trainings")


def norms(axes: Axes, found: Norms) -> None:
    """Draw the distribution of the gradient norms with its quantiles and stock's threshold."""
    values = _floats(found.norm)
    values = values[np.isfinite(values) & (values > 0)]
    axes.set_xscale("log")
    if len(values):
        low, high = min(values.min(), STOCK_MAX_NORM) / 1.3, max(values.max(), STOCK_MAX_NORM) * 1.3
        axes.hist(values, bins=list(np.geomspace(low, high, 40)), color=BLUE, alpha=0.75)
        axes.set_xlim(low, high)
    else:
        axes.text(0.5, 0.5, "no finite gradient norm", transform=axes.transAxes, ha="center", color=GREY)
    for value, label, color, style in (
        (found.median, "median", DARK, ":"),
        (found.p95, "p95", ORANGE, "-"),
        (found.p99, "p99", PURPLE, "-"),
        (STOCK_MAX_NORM, "stock", GREY, "--"),
    ):
        if value is not None:
            axes.axvline(value, color=color, linestyle=style, linewidth=2, label=f"{label} {value:.3g}")
    plain_log_ticks(axes.xaxis, values)
    axes.set_xlabel(f"gradient norm of a step ({found.images:.3g} images, lr {found.lr:g}), before clipping")
    axes.set_ylabel("steps")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _heading(axes, f"gradient norm of {len(found.norm)} steps")


def headroom(axes: Axes, found: Headroom) -> None:
    """Draw the largest activation of each stage against fp16's limit."""
    largest: dict[str, float] = {}
    for layer in found.layers:
        if layer.stage:
            largest[layer.stage] = max(largest.get(layer.stage, 0.0), float(layer.activation))
    names, sizes = list(largest), np.array(list(largest.values()))
    shown = np.where(np.isfinite(sizes), np.maximum(sizes, 1e-3), 1e6)
    colors = [RED if size > FP16_MAX else ORANGE if size * TIGHT > FP16_MAX else BLUE for size in sizes]
    axes.set_yscale("log")
    axes.bar(range(len(names)), shown, color=colors, width=0.75)
    axes.axhline(FP16_MAX, color=RED, linewidth=2, label="fp16's limit")
    axes.axhline(FP16_MAX / TIGHT, color=ORANGE, linewidth=1.4, linestyle="--", label="an eighth: tight")
    axes.set_ylim(min(0.5, shown.min() / 2), max(4e5, shown.max() * 2))
    every = max(1, math.ceil(len(names) / 24))
    axes.set_xticks(range(0, len(names), every), [name.rpartition(".")[2] for name in names[::every]])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("layer, from the image to the head")
    color = {"safe": GREEN, "tight": ORANGE, "unsafe": RED}[found.fp16]
    _heading(axes, f"largest activation: fp16 is {found.fp16}", color)


def _rates(axes: Axes, found: LrRange, lr0: float) -> None:
    """Mark the learning rate that is recommended, and those that break."""
    axes.axvline(lr0, color=GREEN, linewidth=2, label=f"lr0 {lr0:g}")
    if found.lr_diverges is not None:
        axes.axvspan(found.lr_diverges, 1.0, color=RED, alpha=0.08, linewidth=0)
        label = f"breaks {found.lr_diverges:.2g}"
        axes.axvline(found.lr_diverges, color=RED, linewidth=2, linestyle="--", label=label)
    axes.set_xlim(LOWEST / 1.2, 1.2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("e-0", "e-")))
    axes.set_xlabel("learning rate")


def _window(found: LrRange) -> tuple[float, float]:
    """Return the lowest and the highest loss that are drawn."""
    if not found.smoothed:
        return 0.0, 1.0
    loss = _floats(found.loss)
    low, high = min(found.smoothed), CEILING * max(found.smoothed)
    seen = loss[np.isfinite(loss) & (loss <= high)]
    low, high = min([low, *seen]), max([max(found.smoothed), *seen])
    margin = 0.08 * (high - low) or 1.0
    return low - margin, high + margin


def _floats(values: Iterable[float | str | None]) -> Array:
    return np.array([math.nan if value is None else float(value) for value in values], dtype=np.float64)


def _log_y(axes: Axes, values: Array) -> None:
    axes.set_yscale("log", nonpositive="mask")
    plain_log_ticks(axes.yaxis, values)
    axes.grid(axis="y", color="#ebebeb")


def _heading(axes: Axes, text: str, color: str = DARK) -> None:
    """Name a panel at its top left, with its legend at the top right."""
    axes.set_title(text, loc="left", fontsize=12, color=color)
    if not axes.get_legend_handles_labels()[0]:
        return
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=4,
        frameon=False,
        borderaxespad=0,
        columnspacing=1,
        handlelength=1.3,
        handletextpad=0.5,
        fontsize=9,
    )
