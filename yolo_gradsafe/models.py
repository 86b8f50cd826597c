"""Ultralytics' models with a ``train()`` that takes callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from yolo_gradsafe import adapter
from yolo_gradsafe.adapter import stock_models
from yolo_gradsafe.adapter.launch import TUNE
from yolo_gradsafe.config_errors import ConfigError, nearest
from yolo_gradsafe.guard import GradSafe

__all__ = ["RTDETR", "YOLO", "Callbacks"]

Callback = Callable[[Any], None]
Callbacks = GradSafe | Mapping[str, Callback | Iterable[Callback]] | Iterable["Callbacks"]
"""What ``train(callbacks=...)`` takes: a guard, a dict of functions by event, or a list of these."""


class _TakesCallbacks:
    """Adds ``callbacks=`` to ``Model.train``."""

    callbacks: dict[str, list[Callback]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Ultralytics turns the new object into a YOLOWorld, YOLOE or RTDETR when the file asks for one.
        cls: type[Any] = type(self)
        if not issubclass(cls, _TakesCallbacks):
            self.__class__ = _with_callbacks(cls)

    def train(self, trainer: Any = None, *, callbacks: Callbacks | None = None, **kwargs: Any) -> Any:
        """Train as ``ultralytics.YOLO.train`` does, with callbacks for this training only.

        Args:
            trainer: Trainer class, as in Ultralytics.
            callbacks: A ``GradSafe``, a dict from event to function(s), or a list of these.
            **kwargs: Any Ultralytics training argument.

        Returns:
            What ``ultralytics.YOLO.train`` returns.

        Raises:
            ConfigError: An unknown event, or something that is no callback.
        """
        added = [adapter.register(self, table) for table in _tables(callbacks)]
        try:
            return super().train(trainer=trainer, **kwargs)  # type: ignore[misc]
        finally:
            for table in added:
                adapter.unregister(self, table)

    def tune(self, *args: Any, callbacks: Callbacks | None = None, **kwargs: Any) -> Any:
        """Search as ``ultralytics.YOLO.tune`` does: its trainings take no callbacks, hence no guard.

        Raises:
            ConfigError: Callbacks were given; the message says what to do instead.
        """
        if callbacks is not None:
            raise ConfigError(TUNE)
        return super().tune(*args, **kwargs)  # type: ignore[misc]


class YOLO(_TakesCallbacks, stock_models.YOLO):  # type: ignore[misc]
    """``ultralytics.YOLO`` whose ``train()`` takes ``callbacks=``.

    Examples:
        >>> from yolo_gradsafe import YOLO, GradSafe
        >>> model = YOLO("yolo26n.yaml")
        >>> results = model.train(data="coco8.yaml", epochs=3, callbacks=GradSafe())
    """


class RTDETR(_TakesCallbacks, stock_models.RTDETR):  # type: ignore[misc]
    """``ultralytics.RTDETR`` whose ``train()`` takes ``callbacks=``."""


def _with_callbacks(cls: type[Any]) -> type[Any]:
    return type(cls.__name__, (_TakesCallbacks, cls), {"__doc__": cls.__doc__})


def _tables(callbacks: Callbacks | None) -> list[dict[str, list[Callback]]]:
    """Return callbacks, however they were given, as lists of functions by event."""
    if callbacks is None:
        return []
    if isinstance(callbacks, GradSafe):
        return [{event: [fn] for event, fn in callbacks.callbacks.items()}]
    if isinstance(callbacks, Mapping):
        return [{event: _functions(event, given) for event, given in callbacks.items()}]
    if isinstance(callbacks, Iterable) and not isinstance(callbacks, str):
        return [table for item in callbacks for table in _tables(item)]
    raise ConfigError(
        f"callbacks: expected a GradSafe, a dict {{event: function}} or a list of these; got {callbacks!r}."
    )


def _functions(event: str, given: Callback | Iterable[Callback]) -> list[Callback]:
    events = adapter.all_events()
    if event not in events:
        raise ConfigError(f"callbacks: unknown event {event!r}.{nearest(str(event), events)}")
    functions = [given] if callable(given) else list(given) if isinstance(given, Iterable) else []
    if not functions or not all(map(callable, functions)):
        raise ConfigError(f"callbacks: expected a function or functions for {event!r}; got {given!r}.")
    return functions
