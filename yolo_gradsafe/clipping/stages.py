"""Parts of the model: which parameters a stage or a glob means, and a rule for each part."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from yolo_gradsafe.clipping import state as check
from yolo_gradsafe.clipping.base import NOT_CLIPPED, Clip, Clipper, Observation
from yolo_gradsafe.clipping.registry import Stages
from yolo_gradsafe.clipping.scaling import true_norms
from yolo_gradsafe.config_errors import ConfigError, nearest

if TYPE_CHECKING:
    from yolo_gradsafe.gradients.norms import Gradients

__all__ = ["StagedClipper", "parts_by_parameter", "select"]


def select(pattern: str, stages: Stages, option: str) -> list[str]:
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


def parts_by_parameter(patterns: Iterable[str], stages: Stages) -> dict[str, str]:
    """Give each parameter to the first pattern of ``clip.stages`` that matches it.

    Returns:
        The pattern of each parameter that has one, by the parameter's name.

    Raises:
        ConfigError: A pattern matches no parameter, or none that an earlier one has left over.
    """
    part_of: dict[str, str] = {}
    for pattern in patterns:
        matched = select(pattern, stages, "clip.stages")
        free = [name for name in matched if name not in part_of]
        if not free:
            earlier = ", ".join(dict.fromkeys(f"'{part_of[name]}'" for name in matched))
            raise ConfigError(
                f"clip.stages: '{pattern}' is left nothing by {earlier}; the first match wins, so put it first."
            )
        part_of |= dict.fromkeys(free, pattern)
    return part_of


class StagedClipper:
    """Clip each part of the gradients by a rule of its own, by the norm of that part.

    A branch that explodes (the keypoint flow of YOLO26-pose starts at norms of 5e5) then no longer scales the others
    down with it.

    Args:
        main: The rule for what no part claims, clipped together.
        parts: Rule of each part, by its name.
        part_of: Part of each parameter that has one, by the parameter's name.
    """

    def __init__(self, main: Clipper, parts: Mapping[str, Clipper], part_of: Mapping[str, str]) -> None:
        self.main = main
        self.parts = dict(parts)
        self.part_of = dict(part_of)

    def clip_(self, gradients: Gradients, observation: Observation) -> Clip:
        """Clip in place; synchronises as the rules do.

        Returns:
            The main rule's threshold, which holds for its share of the gradients only, and the scale of all.
        """
        norms = true_norms(gradients, observation)
        if not all(map(math.isfinite, norms)):
            return NOT_CLIPPED
        members: dict[str | None, list[int]] = {}
        for index, name in enumerate(gradients.names):
            members.setdefault(self.part_of.get(name), []).append(index)
        main, kept, changed = NOT_CLIPPED, [], False
        for part, indices in members.items():
            own = [observation.tensor_norms[i] for i in indices]
            seen = replace(observation, norm=math.hypot(*(norms[i] for i in indices)), tensor_norms=own)
            rule = self.main if part is None else self.parts[part]
            clip = rule.clip_(gradients.subset(indices), seen)
            main = clip if part is None else main
            kept.append(clip.scale * seen.norm)
            changed = changed or clip.scale < 1
        scale = min(1.0, math.hypot(*kept) / observation.norm) if changed else 1.0
        return Clip(main.threshold, scale)

    def state_dict(self) -> dict[str, Any]:
        """Return the rules' states."""
        return {
            "main": self.main.state_dict(),
            "parts": {name: rule.state_dict() for name, rule in self.parts.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hand each rule its state.

        Raises:
            ValueError: The state has other parts, or one of them is damaged.
        """
        values = check.fields(state, "main", "parts")
        parts = check.fields(values["parts"], *self.parts)
        self.main.load_state_dict(values["main"])
        for name, rule in self.parts.items():
            rule.load_state_dict(parts[name])


def _known(stages: Stages) -> list[str]:
    """List the stages and those that contain them, in the model's order."""
    names = []
    for stage in stages.values():
        parts = stage.split(".")
        names += [".".join(parts[: end + 1]) for end in range(len(parts))]
    return list(dict.fromkeys(names))
