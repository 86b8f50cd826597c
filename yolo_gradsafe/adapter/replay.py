"""A batch once more through the live model, beside the training, and where its images came from."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.utils.tal import TaskAlignedAssigner

from yolo_gradsafe.adapter.autocast import casting
from yolo_gradsafe.adapter.device_memory import DeviceMemory, out_of_memory
from yolo_gradsafe.adapter.rewind import rewound

__all__ = ["Replay", "ReplayResult", "Split", "composed", "other_images", "plain_batch"]

_MIXES = {"Mosaic": "mosaic", "MixUp": "mixup", "CutMix": "cutmix", "CopyPaste": "copy_paste"}


@dataclass(frozen=True)
class ReplayResult:
    """What a batch did."""

    total: float
    """Loss as training back-propagates it, before AMP scaling."""
    items: dict[str, float]
    """The loss items by name."""
    bad_gradients: tuple[str, ...] = ()
    """Parameters whose gradient is not finite, in the model's order; looked at only when asked for."""
    parts: int = 1
    """Parts that it was run in, one after the other; several where memory was short."""
    left_out: bool = False
    """Whether gradients were asked for and there was no memory to look at them."""
    matched: float = 1.0
    """Sum of the target scores where it is less than 1, of an assigner that found any; see ``level``."""

    @property
    def level(self) -> float:
        """The loss to compare with that of other weights on the same batch.

        Ultralytics divides it by the sum of the target scores, but by no less than 1. So weights that match no object,
        such as untrained ones, have a loss of almost 0 where the same weights on larger objects have a large one.
        """
        return self.total / self.matched

    @property
    def loss_finite(self) -> bool:
        """Whether the loss and every item are finite."""
        return all(map(math.isfinite, (self.total, *self.items.values())))

    @property
    def finite(self) -> bool:
        """Whether everything that was looked at is finite."""
        return self.loss_finite and not self.bad_gradients

    @property
    def whole(self) -> bool:
        """Whether it is what training did: a batch's parts have batch-norm statistics of their own."""
        return self.parts == 1 and not self.left_out


@dataclass(frozen=True)
class Split:
    """What a batch did in fp32, the model and its loss looked at apart."""

    outputs_finite: bool
    """Whether all outputs of the model are finite."""
    loss_finite: bool
    gradients_finite: bool
    """Whether the gradients of the loss with respect to the outputs are finite."""

    @staticmethod
    def of(parts: Sequence[Split]) -> Split:
        """Return what a batch did whose parts did these."""
        return Split(
            all(part.outputs_finite for part in parts),
            all(part.loss_finite for part in parts),
            all(part.gradients_finite for part in parts),
        )


class Replay:
    """Runs batches through a live model and leaves no trace in it.

    Args:
        model: The model without its DDP and compile wrappers, in training mode.
        precision: Precision of the forward pass that is to be repeated: ``fp32``, ``fp16`` or ``bf16``.
        names: Names of the loss items, for versions (up to 8.4.103) whose items are a tensor.
        amp_scale: Loss scale of the backward pass that is to be repeated; 1 without GradScaler. In fp32 it is 1.
        compiled: Whether the training runs a compiled model: the replay is of the plain one, without hooks.
        images: Images that training has in a batch on this device; 0 where that is not known.
        memory: What is left on the model's device.
        unbounded: Buffers that are not finite by design.
        outside: Parameters that are trained and are none of the model; their gradients are looked at with the others.
    """

    def __init__(
        self,
        model: nn.Module,
        precision: str = "fp32",
        names: tuple[str, ...] = (),
        amp_scale: float = 1.0,
        compiled: bool = False,
        images: int = 0,
        memory: DeviceMemory | None = None,
        unbounded: frozenset[str] = frozenset(),
        outside: Sequence[tuple[str, nn.Parameter]] = (),
    ) -> None:
        self.model = model
        self.unbounded = unbounded
        self.precision = precision
        self.amp_scale = amp_scale
        self.compiled = compiled
        self.images = images
        self.device = next(model.parameters()).device
        self.memory = memory or DeviceMemory(self.device)
        self._names = names
        self._outside = outside

    def run(self, batch: Mapping[str, Any], precision: str | None = None, backward: bool = False) -> ReplayResult:
        """Run a preprocessed batch. Synchronises.

        Args:
            batch: The batch, on the model's device; it is left as it is.
            precision: Another precision than that of the training.
            backward: Look at the gradients, too, when the loss is finite.
        """
        precision = precision or self.precision
        with self.rewound():
            with (
                torch.set_grad_enabled(backward),
                casting(self.device.type, precision),
                _target_scores(getattr(self.model, "criterion", None)) as scores,
            ):
                loss, items = self.model(dict(batch))
                loss = loss.sum()
            seen = ReplayResult(float(loss.detach()), self._items(items), matched=_least(scores))
            if backward and seen.loss_finite and loss.requires_grad:
                scale = 1.0 if precision == "fp32" else self.amp_scale
                seen = replace(seen, bad_gradients=self._bad_gradients(loss * scale))
        return seen

    def split(self, batch: Mapping[str, Any]) -> Split | None:
        """Run the model and its loss apart, in fp32. Synchronises.

        Returns:
            What they did; None where they cannot be told apart, such as in a model with a ``loss`` of its own form.

        Raises:
            torch.OutOfMemoryError: The device has no memory for it.
        """
        leaves: list[Tensor] = []

        def cut(value: Any) -> Any:
            if isinstance(value, Tensor):
                leaf = value.detach()
                if leaf.is_floating_point():
                    leaves.append(leaf.requires_grad_())
                return leaf
            if isinstance(value, Mapping):
                return {key: cut(item) for key, item in value.items()}
            return type(value)(map(cut, value)) if isinstance(value, list | tuple) else value

        model: Any = self.model
        try:
            with self.rewound():
                with torch.no_grad():  # the model's graph would be dropped: its activations need not be kept
                    outputs = model(batch["img"])
                with torch.enable_grad():
                    loss = model.loss(dict(batch), cut(outputs))[0].sum()
                    gradients = torch.autograd.grad(loss, leaves, allow_unused=True) if loss.requires_grad else ()
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, RuntimeError) as error:
            if out_of_memory(error):
                raise
            return None
        return Split(
            all(bool(leaf.isfinite().all()) for leaf in leaves),
            bool(loss.isfinite()),
            all(bool(g.isfinite().all()) for g in gradients if g is not None),
        )

    def loss(self, batch: Mapping[str, Any], precision: str = "fp32") -> Tensor:
        """Run a preprocessed batch forward and return the loss with its graph, 0-d. Call it within ``rewound``."""
        with casting(self.device.type, precision):
            total: Tensor = self.model(dict(batch))[0].sum()
        return total

    def rewound(self) -> AbstractContextManager[None]:
        """Return a context after which the model, its criterion and the random states are what they were before."""
        return rewound(self.model, _plain_objects(getattr(self.model, "criterion", None)))

    def to_device(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch with its tensors on the model's device."""
        return {key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in batch.items()}

    def _items(self, items: Any) -> dict[str, float]:
        """Return the loss items by name: a dict from 8.4.104 on, and a tensor before."""
        if isinstance(items, Mapping):
            return {str(name): float(value.detach()) for name, value in items.items()}
        values = items.detach().reshape(-1).float().tolist()
        names = self._names if len(self._names) == len(values) else [f"item {i}" for i in range(1, len(values) + 1)]
        return dict(zip(names, values, strict=True))

    def _bad_gradients(self, loss: Tensor) -> tuple[str, ...]:
        named = [(name, p) for name, p in (*self.model.named_parameters(), *self._outside) if p.requires_grad]
        gradients = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
        known = [(name, g) for (name, _), g in zip(named, gradients, strict=True) if g is not None and g.numel()]
        finite = torch.stack([g.isfinite().all() for _, g in known]).tolist() if known else []
        return tuple(name for (name, _), good in zip(known, finite, strict=True) if not good)


def composed(trainer: Any) -> tuple[str, ...]:
    """Return what the training's loader may compose images with now: ``mosaic``, ``mixup``, ``cutmix``, ``copy_paste``.

    Ultralytics names only the first source of such an image. Empty when every image is of one file.
    """
    found = {
        word
        for data in _datasets(trainer)
        for transform in _transforms(getattr(data, "transforms", None))
        for base in type(transform).__mro__
        if (word := _MIXES.get(base.__name__))
        and float(getattr(transform, "p", None) or 0) > 0
        and (word != "copy_paste" or getattr(transform, "mode", "") == "mixup")
    }
    return tuple(word for word in _MIXES.values() if word in found)


def plain_batch(trainer: Any, images: Sequence[str]) -> dict[str, Any] | None:
    """Load images with their labels as a preprocessed batch of their own, without augmentation.

    Reads the files; draws random numbers. Any change that was put on the trainer's instance is passed by.

    Args:
        trainer: A trainer within its run.
        images: The images' paths, as batches name them; all of one data set.

    Returns:
        The batch, or None where no data set knows the images.
    """
    for data in _datasets(trainer):
        places = {str(file): place for place, file in enumerate(getattr(data, "im_files", ()))}
        if images and all(image in places for image in images):
            plain = copy.copy(data)
            plain.augment = False
            plain.transforms = plain.build_transforms(copy.copy(trainer.args))
            batch = plain.collate_fn([plain[places[image]] for image in images])
            return dict(type(trainer).preprocess_batch(trainer, batch))
    return None


def other_images(trainer: Any, excluded: Sequence[str], count: int) -> list[str]:
    """Return image files of the training that are not among some, evenly spaced over the first data set."""
    data = next(iter(_datasets(trainer)), None)
    left = [str(file) for file in getattr(data, "im_files", ()) if str(file) not in set(excluded)]
    return left[:: max(1, len(left) // count)][:count]


def _datasets(trainer: Any) -> list[Any]:
    data = getattr(getattr(trainer, "train_loader", None), "dataset", None)
    return list(getattr(data, "datasets", [data])) if data is not None else []


def _transforms(transform: Any) -> Iterator[Any]:
    """Yield a transform and all those within it."""
    if transform is None:
        return
    yield transform
    within = getattr(transform, "transforms", None)
    for part in [*(within if isinstance(within, list) else ()), getattr(transform, "pre_transform", None)]:
        yield from _transforms(part)


@contextmanager
def _target_scores(criterion: object) -> Iterator[list[Tensor]]:
    """Collect the sums of the target scores, 0-d, that the assigners of a criterion give within the body."""
    sums: list[Tensor] = []

    def collect(_: nn.Module, __: Any, given: Any) -> None:
        if isinstance(given, tuple) and len(given) > 2 and isinstance(given[2], Tensor):
            sums.append(given[2].detach().sum())

    assigners = [thing for thing in _plain_objects(criterion) if isinstance(thing, TaskAlignedAssigner)]
    handles = [assigner.register_forward_hook(collect) for assigner in assigners]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def _least(scores: Sequence[Tensor]) -> float:
    """Return the smallest sum of target scores where it is between 0 and 1, else 1. Synchronises."""
    least = min(map(float, scores), default=1.0)
    return least if 0 < least < 1 else 1.0


_PARTS_OF_A_LOSS = ("ultralytics.utils.loss", "ultralytics.utils.tal")


def _plain_objects(root: object) -> list[object]:
    """Return a criterion and the objects it is made of, as far as they are Ultralytics' or derived from those."""
    found: list[object] = []
    waiting = [root]
    while waiting:
        thing = waiting.pop()
        ours = any(base.__module__.startswith(_PARTS_OF_A_LOSS) for base in type(thing).__mro__)
        ours = ours or type(thing).__module__.startswith("ultralytics.models")
        if ours and hasattr(thing, "__dict__") and not any(thing is known for known in found):
            found.append(thing)
            waiting += list(vars(thing).values())
    return found
