"""A batch in a file, compact and exact, that is never unpickled: a NumPy archive of plain arrays.

Images that came from bytes are kept as bytes: ``img / 255`` is undone where that is exact to the bit, and the few
pixels for which it is not (NaN, say) are kept beside them. Everything else is kept as it is.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolo_gradsafe.telemetry.schema import to_json

__all__ = ["ArchiveError", "load_batch", "save_batch"]

_MOST_ODD = 0.01
"""Share of pixels that may be no multiple of 1/255 for the rest to be kept as bytes."""


_UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError, zipfile.BadZipFile, zlib.error
)  # fmt: skip


class ArchiveError(ValueError):
    """A file is no batch of ours; the message names it."""


def save_batch(path: Path, batch: Mapping[str, Any], meta: Mapping[str, Any]) -> list[str]:
    """Write a preprocessed batch, whole or not at all.

    Args:
        path: The ``.npz`` file; its folder is made.
        batch: The batch, on any device.
        meta: What else a replay should know; anything that is JSON.

    Returns:
        Keys of the batch that could not be kept.

    Raises:
        OSError: It cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {}
    texts: dict[str, Any] = {}
    left_out = []
    for key, value in batch.items():
        if isinstance(value, Tensor):
            arrays |= _pack(key, value.detach().cpu())
        elif (text := _text(value)) is not None:
            texts[key] = text
        else:
            left_out.append(key)
    about = {"batch": texts, "meta": to_json(dict(meta)), "left_out": left_out}
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fresh.write_bytes(data.getvalue())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return left_out


def load_batch(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what ``save_batch`` wrote.

    Returns:
        The batch, its tensors on the CPU and equal to the bit, and the rest; and ``meta``, non-finite numbers as text.

    Raises:
        ArchiveError: The file is missing or not a batch of ours.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays.pop("about").tobytes())
        batch = {key: _unlist(value) for key, value in about["batch"].items()}
        for name in arrays:
            kind, _, key = name.partition(":")
            if kind in _UNPACK:
                batch[key] = _UNPACK[kind](arrays, key)
        if "img" not in batch:
            raise KeyError("img")
        return batch, dict(about["meta"])
    except _UNREADABLE as error:
        raise ArchiveError(f"{path} is not a batch that GradSafe kept: {type(error).__name__}: {error}") from error


def _pack(key: str, value: Tensor) -> dict[str, NDArray[Any]]:
    if value.dtype is torch.bfloat16:
        return {f"bf16:{key}": value.float().numpy()}
    array = value.numpy()
    if key == "img" and array.dtype == np.float32:
        for kind in ("div", "mul"):
            if (packed := _as_bytes(array, kind)) is not None:
                return packed
        half = array.astype(np.float16)
        if np.array_equal(half.astype(np.float32), array, equal_nan=True):
            return {f"f16:{key}": half}
    return {f"raw:{key}": array}


def _as_bytes(array: NDArray[np.float32], kind: str) -> dict[str, NDArray[Any]] | None:
    """Return images as bytes and the exceptions, or None where there are too many of them.

    Args:
        array: The images.
        kind: How bytes became floats: ``div`` by 255, or ``mul`` by 1/255 as CUDA does, which rounds otherwise.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        pixels = np.clip(np.rint(np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0) * 255), 0, 255).astype(np.uint8)
    odd = np.flatnonzero(_as_floats(pixels, kind).view(np.uint32) != np.ascontiguousarray(array).view(np.uint32))
    if len(odd) > _MOST_ODD * array.size:
        return None
    return {f"{kind}:img": pixels, "odd_at": odd.astype(np.int64), "odd": array.reshape(-1)[odd]}


def _as_floats(pixels: NDArray[np.uint8], kind: str) -> NDArray[np.float32]:
    floats: NDArray[np.float32] = pixels.astype(np.float32)
    if kind == "div":
        np.divide(floats, np.float32(255), out=floats)
    else:
        np.multiply(floats, np.float32(1 / 255), out=floats)
    return floats


def _from_bytes(arrays: Mapping[str, NDArray[Any]], key: str, kind: str) -> Tensor:
    floats = _as_floats(arrays[f"{kind}:{key}"], kind)
    floats.reshape(-1)[arrays["odd_at"]] = arrays["odd"]
    return torch.from_numpy(floats)


_UNPACK = {
    "raw": lambda arrays, key: torch.from_numpy(arrays[f"raw:{key}"]),
    "bf16": lambda arrays, key: torch.from_numpy(arrays[f"bf16:{key}"]).bfloat16(),
    "f16": lambda arrays, key: torch.from_numpy(arrays[f"f16:{key}"]).float(),
    "div": lambda arrays, key: _from_bytes(arrays, key, "div"),
    "mul": lambda arrays, key: _from_bytes(arrays, key, "mul"),
}


def _text(value: Any) -> Any:
    """Return a value as JSON can hold it, a tuple as ``{"tuple": [...]}``; None where it cannot."""
    if isinstance(value, bool | int | float | str):
        return to_json(value)
    if isinstance(value, list | tuple):
        items = [_text(item) for item in value]
        if any(text is None and item is not None for text, item in zip(items, value, strict=True)):
            return None
        return {"tuple": items} if isinstance(value, tuple) else items
    return None


def _unlist(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(_unlist(item) for item in value["tuple"])
    return [_unlist(item) for item in value] if isinstance(value, list) else value
