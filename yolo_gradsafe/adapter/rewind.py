"""A pass through the live model that leaves no trace.

A forward pass in training mode updates batch-norm statistics and may draw random numbers, create a criterion or keep a
cache. All of it is put back, in place: trainer and EMA hold references to the very tensors, so nothing is rebound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from yolo_gradsafe.adapter.random_states import keep_random_states

__all__ = ["rewound"]


@contextmanager
def rewound(model: nn.Module, others: Sequence[object] = ()) -> Iterator[None]:
    """Put back, at the end, what a pass through a model changes: bit for bit, whatever is raised.

    That is: buffers, attributes of the modules (the training flag, caches), references to gradients, and the random
    states of Python, NumPy and torch on the CPU and on the model's device. Weights and the content of gradients are not
    copied: a pass does not change them as long as it uses ``torch.autograd.grad`` and not ``backward``.

    Args:
        model: The live model. Takes memory for a copy of its buffers meanwhile.
        others: Plain objects that a pass may change, such as criteria; their attributes and tensors are put back.

    Note:
        Synchronises on CUDA, through the random state.
    """
    buffers = [
        (module, name, live, live.detach().clone())
        for module in model.modules()
        for name, live in module._buffers.items()
        if live is not None
    ]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    namespaces = [vars(thing) for thing in (*model.modules(), *others)]
    namespaces += [module._modules for module in model.modules()]
    attributes = [(live, dict(live)) for live in namespaces]
    tensors = [(live, live.clone()) for thing in others for live in vars(thing).values() if isinstance(live, Tensor)]
    put_back_random_states = keep_random_states(_device(model))
    try:
        yield
    finally:
        for names, before in attributes:
            _put_back(names, before)
        with torch.no_grad():
            for module, name, live, copy in buffers:
                live.copy_(copy)
                module._buffers[name] = live
            for live, copy in tensors:
                live.copy_(copy)
        for parameter, gradient in gradients:
            if parameter.grad is not gradient:
                parameter.grad = gradient
        put_back_random_states()


def _put_back(live: dict[str, Any], before: dict[str, Any]) -> None:
    for name in set(live) - set(before):
        del live[name]
    for name, value in before.items():
        if name not in live or live[name] is not value:
            live[name] = value


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
