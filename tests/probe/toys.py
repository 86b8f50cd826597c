"""Small things to probe: plain networks, a trainable toy, a result without an experiment."""

from __future__ import annotations

import math

import torch
from torch import nn

from yolo_gradsafe.probe.advice import advise, headline
from yolo_gradsafe.probe.headroom import judge_headroom, measure_extremes
from yolo_gradsafe.probe.init import measure_init
from yolo_gradsafe.probe.lr_range import judge_range
from yolo_gradsafe.probe.norms import distribution
from yolo_gradsafe.probe.parts import Arm, Comparison, Course, Setup, Trial
from yolo_gradsafe.probe.result import ProbeResult
from yolo_gradsafe.probe.steps import Step
from yolo_gradsafe.probe.trial import compare


def plain(act: type[nn.Module], depth: int = 20, gain: float = 1.0, norm: bool = False) -> nn.Sequential:
    """A plain deep stack of convolutions with He's weights times a gain."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(depth):
        conv = nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1)
        nn.init.normal_(conv.weight, std=gain * math.sqrt(2 / conv.weight[0].numel()))
        nn.init.zeros_(conv.bias)
        layers += [conv, nn.BatchNorm2d(16), act()] if norm else [conv, act()]
    return nn.Sequential(*layers)


def loss_of(model: nn.Module, shape=(4, 3, 12, 12), scale: float = 1.0):
    """A loss to be measured: the mean square of the outputs, summed over the images."""
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return lambda: (scale * model(images).square().flatten(1).mean(1).sum(), len(images))


class Quadratic:
    """A trainable whose plain gradient descent diverges just above a learning rate of 2 / curvature."""

    def __init__(self, curvature: float) -> None:
        self.curvature = curvature
        self.weight = nn.Parameter(torch.ones(1))
        self.lr = 0.0

    def parameters(self):
        return [self.weight]

    def forward(self):
        return (0.5 * self.curvature * self.weight**2).sum() + 0.01, 1

    def set_lr(self, lr: float) -> None:
        self.lr = lr

    def step(self) -> None:
        with torch.no_grad():
            self.weight -= self.lr * self.weight.grad
        self.weight.grad = None

    def reset(self, seed: int) -> None:
        with torch.no_grad():
            self.weight.fill_(1.0)

    def held_out_loss(self, images: int) -> float:
        return float(self.forward()[0])


def arm(*final: float, lr0: float = 0.01, max_norm: float = 10.0) -> Arm:
    """An arm with a final held-out loss a seed."""
    courses = [Course(seed=i, loss=[9.0, loss], held_out=[8.0, loss]) for i, loss in enumerate(final)]
    return Arm(lr0=lr0, max_norm=max_norm, courses=courses)


def trial(yours: Arm, lr0: Arm | None = None, max_norm: Arm | None = None) -> Trial:
    """A trial of those arms."""
    best = yours
    against: Comparison | None = None
    if lr0:
        against = compare(yours.final, lr0.final)
        best = lr0 if against.verdict == "better" else yours
    return Trial(
        steps=24,
        batches=1,
        at=[12, 24],
        yours=yours,
        lr0=lr0,
        lr0_against_yours=against,
        max_norm=max_norm,
        max_norm_against_stock=compare(best.final, max_norm.final) if max_norm else None,
    )


def result(
    optimizer: str = "AdamW", norms=None, gain: float = 1.0, losses=None, ratios=None, tried=None, **setup
) -> ProbeResult:
    """A result made of toys; without a time for a trial unless one is given."""
    model = plain(nn.ReLU, 4, gain)
    lrs = [1e-5 * 1e5 ** (i / 39) for i in range(40)]
    losses = losses or [5 - 3 * math.exp(-((math.log10(lr) + 2) ** 2)) for lr in lrs]
    parts = {
        "setup": Setup(
            **{
                "model": "yolo26n.yaml",
                "data": "coco8.yaml",
                "task": "detect",
                "optimizer": optimizer,
                "optimizer_auto": False,
                "lr0": 0.01,
                "batch": 4,
                "accumulate": 1,
                "steps": 60,
                "imgsz": 64,
                "device": "cpu",
                "seed": 0,
                "arguments": {},
                "environment": {},
                **setup,
            }
        ),
        "init": measure_init(model, loss_of(model)),
        "lr_range": judge_range(lrs[: len(losses)], losses, [30.0] * len(losses), ratios or [math.nan] * len(losses)),
        "trial": tried,
        "norms": distribution([Step(4.0, n, 4) for n in norms or range(20, 60)], 0.001, 1),
        "headroom": judge_headroom(measure_extremes(model, loss_of(model))),
    }
    advice = advise(**parts)
    answer = headline(parts["init"], parts["lr_range"], tried, advice, parts["setup"], parts["headroom"])
    return ProbeResult(headline=answer, advice=advice, seconds=1.0, **parts)
