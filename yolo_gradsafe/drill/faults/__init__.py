"""Faults that can be put into a training, by the place that they harm."""

from yolo_gradsafe.drill.faults.base import Edit, Fault
from yolo_gradsafe.drill.faults.buffers import InfRunningVar, NaNRunningMean
from yolo_gradsafe.drill.faults.data import HugeImage, InfPixel, NaNLabel, NaNPixel, PoisonousImage
from yolo_gradsafe.drill.faults.ema import InfEMABuffer, NaNEMAWeight
from yolo_gradsafe.drill.faults.forward import HalfOverflow, InfBackbone, InfHead, NaNBackbone, NaNHead
from yolo_gradsafe.drill.faults.gradient import HugeGradients, InfGradient, NaNGradient
from yolo_gradsafe.drill.faults.loss import HugeLoss, InfLoss, LossSpike, NaNLoss
from yolo_gradsafe.drill.faults.optimizer import InfSecondMoment, LearningRateJump, NaNMomentum
from yolo_gradsafe.drill.faults.scaler import InfScale, ZeroScale
from yolo_gradsafe.drill.faults.weights import BlownUpLayer, FlippedWeight, NaNWeight

__all__ = [
    "BlownUpLayer",
    "Edit",
    "Fault",
    "FlippedWeight",
    "HalfOverflow",
    "HugeGradients",
    "HugeImage",
    "HugeLoss",
    "InfBackbone",
    "InfEMABuffer",
    "InfGradient",
    "InfHead",
    "InfLoss",
    "InfPixel",
    "InfRunningVar",
    "InfScale",
    "InfSecondMoment",
    "LearningRateJump",
    "LossSpike",
    "NaNBackbone",
    "NaNEMAWeight",
    "NaNGradient",
    "NaNHead",
    "NaNLabel",
    "NaNLoss",
    "NaNMomentum",
    "NaNPixel",
    "NaNRunningMean",
    "NaNWeight",
    "PoisonousImage",
    "ZeroScale",
]
