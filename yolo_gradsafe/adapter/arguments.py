"""Training arguments as words of a command line, and the folder that Ultralytics is set to keep data sets in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ultralytics.cfg import TASKS, cfg2dict, check_dict_alignment, get_cfg, merge_equals_args, parse_key_value_pair
from ultralytics.utils import DATASETS_DIR, DEFAULT_CFG_DICT
from ultralytics.utils.checks import check_yaml

__all__ = ["datasets_folder", "default_arguments", "parse_arguments"]


def datasets_folder() -> Path:
    """Return the folder that a data YAML's path is relative to where it is not found otherwise."""
    return Path(DATASETS_DIR)


def default_arguments() -> dict[str, Any]:
    """Return Ultralytics' arguments and what they are without the user."""
    return dict(DEFAULT_CFG_DICT)


def parse_arguments(words: Sequence[str]) -> dict[str, Any]:
    """Parse training arguments as the ``yolo`` command does, and check them as it does.

    Args:
        words: ``key=value`` words, a task's name, or the bare name of a switch (``resume``). ``cfg=FILE.yaml`` stands
            for the arguments in the file; those on the command line win.

    Raises:
        FileNotFoundError: The file of ``cfg`` is not there.
        SyntaxError: An unknown argument; the message is Ultralytics' own and names similar ones.
        TypeError: A value of the wrong type.
        ValueError: A value out of range.
    """
    arguments: dict[str, Any] = {}
    for word in merge_equals_args(list(words)):
        word = word.removeprefix("--").rstrip(",")
        if "=" in word:
            try:
                key, value = parse_key_value_pair(word)
            except AssertionError as error:
                raise SyntaxError(str(error)) from None
            arguments[key] = value
        elif word in TASKS:
            arguments["task"] = word
        elif isinstance(DEFAULT_CFG_DICT.get(word), bool):
            arguments[word] = True
        elif word != "train":
            check_dict_alignment(DEFAULT_CFG_DICT, {word: ""})
            raise SyntaxError(f"'{word}' is a valid YOLO argument but is missing an '=' sign to set its value.")
    if file := arguments.pop("cfg", None):
        arguments = {**_read(file), **arguments}
    get_cfg(overrides=dict(arguments))
    return arguments


def _read(file: Any) -> dict[str, Any]:
    """Return the arguments of a YAML file, such as a run's ``args.yaml``, without those that are none to train with."""
    values = cfg2dict(check_yaml(str(file)))
    return {key: value for key, value in values.items() if key not in {"cfg", "mode", "save_dir"}}
