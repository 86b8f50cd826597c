"""Which parameters a stage name or a glob means."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from yolo_gradsafe.config_base import ConfigError, nearest

__all__ = ["select"]


def select(pattern: str, stages: Mapping[str, str], option: str) -> list[str]:
    """Return the parameters that a pattern matches: a stage with its sub-stages, or a glob over parameter names.

    Args:
        pattern: ``head`` (matches the stages ``head`` and ``head.box``), or ``model.22.cv3.*``.
        stages: Stage of each parameter, by the parameter's name.
        option: The option that the pattern stands in, for the error.

    Raises:
        ConfigError: Nothing matches.
    """
    matched = [
        name
        for name, stage in stages.items()
        if stage == pattern or stage.startswith(f"{pattern}.") or fnmatchcase(name, pattern)
    ]
    if not matched:
        known = _known(stages)
        raise ConfigError(
            f"{option}: '{pattern}' matches no stage and no parameter of this model. Stages: "
            f"{', '.join(known) or 'none known'}.{nearest(pattern, known)}"
        )
    return matched


def _known(stages: Mapping[str, str]) -> list[str]:
    """List the stages and those that contain them, in the model's order."""
    names = []
    for stage in stages.values():
        parts = stage.split(".")
        names += [".".join(parts[: end + 1]) for end in range(len(parts))]
    return list(dict.fromkeys(names))
