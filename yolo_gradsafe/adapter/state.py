"""The training state of a trainer as named tensors, live and in place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.utils.torch_utils import unwrap_model

from yolo_gradsafe.adapter.compatibility import ask
from yolo_gradsafe.adapter.trainer_info import TEACHER, is_statistic, outside_parameters

__all__ = ["TrainingState", "unbounded_buffers"]


class TrainingState:
    """Weights, buffers, EMA and optimizer state.

    Names are ``model/NAME``, ``ema/NAME`` and ``optimizer/PARAMETER/KEY``. A parameter that the optimizer holds and the
    model does not is ``outside/PLACE``, and PLACE stands for it in ``optimizer/PLACE/KEY``; DDP leaves it to each rank.
    Everything is looked up anew at each call: the trainer replaces its EMA and its optimizer. ``state_dict()`` values
    are used because those of an EMA that older versions validated in half precision can be written in place only
    through them. Buffers that are not finite by design are left out of it all: they are neither looked at nor ever
    written to.

    Args:
        trainer: A ``BaseTrainer`` that is set up.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.unbounded: frozenset[str] = frozenset()
        """Buffers that are not finite by design, as ``note_unbounded`` found them."""

    def note_unbounded(self) -> None:
        """Note the buffers that are not finite now, before training: what is in them is meant to be. Synchronises."""
        self.unbounded = unbounded_buffers(unwrap_model(self._trainer.model))

    @torch.no_grad()
    def refill_unbounded(self) -> list[str]:
        """Give the EMA the model's buffers that are not finite by design: an average of infinities may be NaN.

        Returns:
            Names of those that were others there. Synchronises where there are such buffers.
        """
        ema = ask(self._trainer, "ema")
        if not (ema and self.unbounded):
            return []
        own = dict(unwrap_model(self._trainer.model).named_buffers())
        averages = {name: value for name, value in ema.ema.state_dict().items() if name in self.unbounded}
        differing = [name for name, average in averages.items() if not torch.equal(average, own[name].to(average))]
        for name in differing:
            averages[name].copy_(own[name])
        return differing

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name. Does not synchronise."""
        return {**self.model(), **self.ema(), **self.optimizer(), **self.outside()}

    def model(self) -> dict[str, Tensor]:
        """Return weights and buffers."""
        return self._named("model", unwrap_model(self._trainer.model))

    def ema(self) -> dict[str, Tensor]:
        """Return weights and buffers of the EMA; nothing where there is none."""
        ema = ask(self._trainer, "ema")
        return self._named("ema", ema.ema) if ema else {}

    def optimizer(self) -> dict[str, Tensor]:
        """Return the tensors of the optimizer's state for the model; nothing before its first step."""
        return self._moments({p: name for name, p in unwrap_model(self._trainer.model).named_parameters()})

    def outside(self) -> dict[str, Tensor]:
        """Return the parameters that the optimizer holds and the model does not, and the optimizer's state for them."""
        found = self._outside()
        return {f"outside/{name}": p.detach() for p, name in found.items()} | self._moments(found)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the model and of the EMA, without buffers: what is the same on every rank."""
        modules = {"model": unwrap_model(self._trainer.model)}
        if self._trainer.ema:
            modules["ema"] = self._trainer.ema.ema
        return {
            f"{prefix}/{name}": p.detach()
            for prefix, module in modules.items()
            for name, p in module.named_parameters()
            if p.numel()
        }

    def lasting(self) -> list[Tensor]:
        """Return what a forward pass does not change: weights, EMA and optimizer state."""
        weights = [p.detach() for p in unwrap_model(self._trainer.model).parameters() if p.numel()]
        return [*weights, *self.ema().values(), *self.optimizer().values(), *self.outside().values()]

    def extra(self) -> dict[str, Any]:
        """Return what is no tensor: the number of EMA updates."""
        return {"ema_updates": self._trainer.ema.updates if self._trainer.ema else 0}

    def set_extra(self, extra: dict[str, Any]) -> None:
        """Put back what ``extra`` returned."""
        if self._trainer.ema:
            self._trainer.ema.updates = extra["ema_updates"]

    def forget(self, names: Iterable[str]) -> None:
        """Drop the optimizer's state of the parameters of these names; it starts anew for them."""
        parameters = dict(unwrap_model(self._trainer.model).named_parameters())
        parameters |= {name: p for p, name in self._outside().items()}
        for name in {full.split("/")[1] for full in names if full.startswith("optimizer/")}:
            self._trainer.optimizer.state.pop(parameters[name], None)

    def moments(self) -> dict[nn.Parameter, dict[str, Any]]:
        """Return the optimizer's state by parameter: the live tensors, to put back what is dropped meanwhile."""
        return {parameter: dict(state) for parameter, state in self._trainer.optimizer.state.items()}

    def set_moments(self, moments: dict[nn.Parameter, dict[str, Any]]) -> None:
        """Put back what ``moments`` returned."""
        self._trainer.optimizer.state.clear()
        self._trainer.optimizer.state.update(moments)

    @torch.no_grad()
    def reset_moments(self) -> None:
        """Drop all of the optimizer's state."""
        self.forget([*self.optimizer(), *self.outside()])

    def _outside(self) -> dict[nn.Parameter, str]:
        found = outside_parameters(unwrap_model(self._trainer.model), self._trainer.optimizer)
        return {p: name for name, p in found}

    def _moments(self, names: dict[nn.Parameter, str]) -> dict[str, Tensor]:
        """Return the tensors of the optimizer's state for some parameters."""
        return {
            f"optimizer/{names[p]}/{key}": value
            for p, state in self._trainer.optimizer.state.items()
            if p in names
            for key, value in state.items()
            if isinstance(value, Tensor) and value.numel()
        }

    def _named(self, prefix: str, module: nn.Module) -> dict[str, Tensor]:
        return {
            f"{prefix}/{name}": t
            for name, t in module.state_dict().items()
            if isinstance(t, Tensor) and t.numel() and not name.startswith(TEACHER) and name not in self.unbounded
        }


@torch.no_grad()
def unbounded_buffers(model: nn.Module) -> frozenset[str]:
    """Name the buffers, batch-norm statistics apart, whose norm is not finite, such as a mask of -inf. Synchronises."""
    own = {
        name: buffer
        for name, buffer in model.named_buffers()
        if buffer.is_floating_point() and buffer.numel() and not is_statistic(name)
    }
    norms = [torch.linalg.vector_norm(buffer).to("cpu", torch.float32) for buffer in own.values()]
    return frozenset(name for name, norm in zip(own, norms, strict=True) if not norm.isfinite())
