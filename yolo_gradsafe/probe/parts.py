"""The parts of the experiment's result, as they stand in ``probe.json``.

Conventions: losses are means an image, as training back-propagates them; norms are global L2 norms of the gradients of
one optimizer step before clipping, summed over its images as Ultralytics sums them; learning rates are ``lr0``, that of
the groups that training does not give a multiple of it; shares go from 0 to 1; a number that does not exist is null.
What is set or said of them has two significant digits.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

from pydantic import Field

from yolo_gradsafe.report.parts import Number, Part

__all__ = [
    "Arm",
    "Comparison",
    "Course",
    "Dead",
    "Headroom",
    "Init",
    "Layer",
    "LayerRange",
    "LrRange",
    "Norms",
    "Setup",
    "Trial",
    "Unnormalised",
    "Verdict",
    "WeightScale",
    "brief",
    "rounded",
]


def rounded(value: float) -> float:
    """Round to two significant digits."""
    return float(f"{value:.1e}")


def brief(value: float) -> str:
    """Write a number with two significant digits, without an exponent where that is short: ``1100``, ``0.021``."""
    if not math.isfinite(value) or (value != 0 and not 1e-4 <= abs(value) < 1e6):
        return f"{value:.2g}"
    return f"{rounded(value):.0f}" if abs(value) >= 100 else f"{value:.2g}"


class Setup(Part):
    """What the experiment was made with."""

    model: str = Field(description="model, as it was named to Ultralytics")
    data: str = Field(description="data set, as it was named to Ultralytics")
    task: str = Field(description="Ultralytics' task: detect, pose, ...")
    optimizer: str = Field(description="class of the optimizer that Ultralytics built")
    optimizer_auto: bool = Field(description="whether Ultralytics chose the optimizer, and so would ignore lr0")
    lr0: float = Field(description="learning rate that training would start from without this experiment")
    batch: int = Field(description="images a batch")
    accumulate: int = Field(description="batches an optimizer step, after warm-up")
    steps: int = Field(description="optimizer steps of the training that was asked for")
    imgsz: int = Field(description="side of an image, pixels")
    device: str = Field(description="device of the experiment")
    seed: int = Field(description="seed of initialisation, image order and augmentation")
    arguments: dict[str, Any] = Field(description="Ultralytics arguments that were given")
    environment: dict[str, str] = Field(description="versions of the software, by name")


class Layer(Part):
    """One stage of the model, or one part of its head, at initialisation."""

    name: str = Field(description="prefix of its parameters' names")
    kind: str = Field(description="class of the module")
    in_chain: bool = Field(description="whether its only input is the layer before it, back to the image")
    in_head: bool = Field(description="whether it is a part of the head, which another row shows as a whole")
    activation_std: Number | None = Field(description="standard deviation of its output")
    output_gradient: Number | None = Field(description="L2 norm of the loss's gradient with respect to its output")
    gradient: Number | None = Field(description="L2 norm of its parameters' gradients; null without parameters")


class WeightScale(Part):
    """Size of a layer's weights."""

    name: str = Field(description="layer")
    fan_in: int = Field(description="inputs of one of its outputs")
    fan_out: int = Field(description="outputs of one of its inputs")
    rms: Number = Field(description="root mean square of the weights")
    he: Number = Field(description="rms / He's sqrt(2 / fan_in); PyTorch's default initialisation has 0.41")
    xavier: Number = Field(description="rms / Glorot's sqrt(2 / (fan_in + fan_out))")


class Dead(Part):
    """A layer some of whose activations do not react."""

    name: str = Field(description="layer")
    share: float = Field(description="share of its channels that are zero or saturated everywhere in the batch")


class Unnormalised(Part):
    """A convolution whose output goes into no normalisation."""

    name: str = Field(description="layer")
    expected: bool = Field(description="whether that is how heads are built: a last convolution in the head")


class Init(Part):
    """Flow of signal and gradient at initialisation, on one batch."""

    verdict: Literal["healthy", "exploding", "vanishing"] = Field(
        description="exploding: something is not finite, or along the chain the gradient's or the activation's gain a "
        "layer is at least 2 and in total at least 100, or in total at least 10000, or the weights' median is at least "
        "3 times He's; vanishing: no gradient arrives, or a gain a layer of at most 1/2 and in total at most 1/100, or "
        "in total at most 1/10000"
    )
    reason: str = Field(description="the verdict's reason, a sentence")
    loss: Number = Field(description="loss an image")
    gradient_norm: Number = Field(description="global L2 norm of the gradients of one batch")
    gradient_gain: Number | None = Field(
        description="geometric mean of the factor by which the gradient's norm grows a layer, from the chain's end "
        "back to the image; null for a chain shorter than 3"
    )
    gradient_ratio: Number | None = Field(description="that factor over the whole chain")
    activation_gain: Number | None = Field(
        description="geometric mean of the factor by which the activations' standard deviation grows a layer, forward"
    )
    activation_ratio: Number | None = Field(description="that factor over the whole chain")
    weight_ratio: Number | None = Field(description="median over the layers of the weights' rms / He's")
    dead_share: float = Field(description="share of all activation channels that are zero or saturated everywhere")
    dead: list[Dead] = Field(description="layers with dead channels, the worst first")
    unnormalised: list[Unnormalised] = Field(description="convolutions without normalisation behind them")
    layers: list[Layer] = Field(description="stages in order, then the head's parts")
    weights: list[WeightScale] = Field(description="trained convolutions and linear layers in order")


class LrRange(Part):
    """Learning-rate range test: one batch a step, the learning rate growing exponentially."""

    lr: list[float] = Field(description="learning rate of each step")
    loss: list[Number] = Field(description="loss of each step")
    norm: list[Number] = Field(description="gradient norm of each step, of one batch")
    ratio: list[Number] = Field(
        description="how far each step moved the weights: its change over their norm, the median of the weight matrices"
    )
    smoothed: list[float] = Field(description="loss, smoothed over neighbouring steps, up to where it diverges")
    lr_diverges: float | None = Field(
        description="learning rate at which two steps in a row moved the weights by over 4 %, or the loss ran away, "
        "whichever came first; null if neither did"
    )
    diverges_by: str = Field(description="what broke down there, or empty")
    lr_suggested: float = Field(
        description="largest learning rate that suits: its steps move the weights by 1.5 %, and it is at most a third "
        "of lr_diverges; before it was tried"
    )


class Norms(Part):
    """Distribution of the gradient norm over optimizer steps of a real, short training."""

    lr: float = Field(description="learning rate of these steps")
    batches: int = Field(description="batches a step")
    images: float = Field(description="images a step, on average")
    norm: list[Number] = Field(description="norm of each step")
    loss: list[Number] = Field(description="loss of each step")
    median: float | None = Field(description="half of the steps had a smaller norm; null where none was finite")
    p95: float | None = Field(description="threshold that would have clipped 5 % of the steps")
    p99: float | None = Field(description="threshold that would have clipped 1 % of the steps")
    max: float | None = Field(description="largest finite norm")
    median_per_image: float | None = Field(description="median / images")
    held: bool = Field(description="whether all losses were finite, the last at most 1.1 times the first")
    over_stock: float = Field(description="share of the steps that stock's threshold of 10 clips")


Verdict: TypeAlias = Literal["better", "worse", "same", "both_died"]


class Course(Part):
    """One short training of the trial."""

    seed: int = Field(description="seed of image order and augmentation")
    loss: list[Number] = Field(description="loss of each step")
    held_out: list[Number] = Field(description="loss of images that are not trained on, after the steps in `at`")


class Arm(Part):
    """One setting that was tried."""

    lr0: float = Field(description="largest learning rate")
    max_norm: float = Field(description="norm to clip at")
    courses: list[Course] = Field(description="a training a seed")

    @property
    def final(self) -> list[float]:
        """Final held-out loss by seed; nan where training died."""
        return [float(course.held_out[-1]) for course in self.courses]


class Comparison(Part):
    """Two arms side by side, by their final held-out loss."""

    verdict: Verdict = Field(description="what the suggestion is, by more than the spread; same: within it")
    base: float | None = Field(description="mean over the seeds without the suggestion; null where training died")
    candidate: float | None = Field(description="mean with the suggestion; null where training died")
    spread: float | None = Field(
        description="largest difference between seeds of one arm, at least 1 % of the loss; null where one died"
    )


class Trial(Part):
    """Short trainings of the user's settings and of what was suggested, from the same weights on the same batches."""

    steps: int = Field(description="optimizer steps of each training")
    batches: int = Field(description="batches a step")
    at: list[int] = Field(description="steps after which the held-out loss was taken")
    yours: Arm = Field(description="the user's learning rate, stock's clip")
    lr0: Arm | None = Field(description="the suggested learning rate; null where it was not tried")
    lr0_against_yours: Comparison | None = Field(description="what came of it")
    max_norm: Arm | None = Field(description="the suggested clip value, with the better learning rate")
    max_norm_against_stock: Comparison | None = Field(description="what came of it, against stock's clip")

    @property
    def best(self) -> Arm:
        """The arm with everything that was better."""
        arm = self.yours
        if self.lr0 and self.lr0_against_yours and self.lr0_against_yours.verdict == "better":
            arm = self.lr0
        if self.max_norm and self.max_norm_against_stock and self.max_norm_against_stock.verdict == "better":
            arm = self.max_norm
        return arm


class LayerRange(Part):
    """Largest numbers in one layer, fp32, over the batches that were looked at."""

    name: str = Field(description="layer")
    stage: str = Field(description="stage of the model that it belongs to")
    activation: Number = Field(description="largest magnitude of its output")
    gradient: Number = Field(description="largest magnitude of the gradient of its output, of the unscaled loss")
    underflow: float = Field(
        description="share of its output's non-zero gradients under fp16's smallest normal number at loss scale 65536"
    )


class Headroom(Part):
    """Room that half precision leaves to activations and gradients."""

    fp16: Literal["safe", "tight", "unsafe"] = Field(
        description="unsafe: an activation is over fp16's limit of 65504, or the gradients want a loss scale under 1; "
        "tight: the activations have less than 8 times their size left, or less than half of the gradients survive"
    )
    bf16: Literal["safe", "tight", "unsafe"] = Field(description="the same against bf16's limit of 3.39e38")
    reason: str = Field(description="the fp16 verdict's reason, a sentence")
    activation_headroom: Number = Field(description="65504 / the largest activation")
    activation_layer: str = Field(description="layer with the largest activation")
    gradient_layer: str = Field(description="layer with the largest gradient")
    loss_scale: float = Field(
        description="largest loss scale of at most 65536, a power of two, at which no gradient exceeds fp16's limit"
    )
    scale_search: int = Field(description="steps that a GradScaler starting at 65536 would skip to get there")
    underflow: float = Field(description="share of non-zero gradients under 6.1e-5 at loss scale 65536")
    underflow_at_scale: float = Field(description="that share at loss_scale")
    layers: list[LayerRange] = Field(description="layers in the order of the model")
