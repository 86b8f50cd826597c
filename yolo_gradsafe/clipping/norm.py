"""Clip by the global norm: what ``torch.nn.utils.clip_grad_norm_`` does, and stock Ultralytics with 10.0."""

from __future__ import annotations

from yolo_gradsafe.gradients import Gradients, clip_by_norm_

__all__ = ["NormClipper"]


class NormClipper:
    """Scale all gradients by ``max_norm / norm`` when their global L2 norm is larger.

    Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", arXiv 1211.5063.

    Args:
        max_norm: Largest global L2 norm of the unscaled gradients that is left alone.
    """

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def threshold(self) -> float:
        """Return ``max_norm``."""
        return self.max_norm

    def clip_(self, gradients: Gradients, norm: float) -> float:
        """Scale in place; costs no pass over the gradients when the norm is clearly below. Does not synchronise."""
        # The margin leaves the borderline to the device's own arithmetic, so that the result is stock's to the bit.
        if norm < self.max_norm * (1 - 1e-5):
            return 1.0
        clip_by_norm_(gradients, self.max_norm)
        return min(1.0, self.max_norm / (norm + 1e-6))
