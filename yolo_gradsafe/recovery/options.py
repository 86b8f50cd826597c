"""The options of ``recovery``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from yolo_gradsafe.config_base import Section

__all__ = ["RecoveryOptions"]


class RecoveryOptions(Section):
    """What happens to a step that would harm the model."""

    enabled: bool = Field(
        default=True,
        description="(bool) skip, repair and roll back; False: only observe and report",
    )
    scale_floor: float = Field(
        default=1.0,
        gt=0,
        description="(float) > 0, smallest AMP loss scale; non-finite gradients at this scale count as a bad step, and "
        "no longer as GradScaler's normal search for a scale",
    )
    scale_hysteresis: int = Field(
        default=1,
        ge=1,
        description="(int) >= 1, AMP overflows in a row after which the loss scale is halved; 1 is GradScaler's "
        "own rule",
    )
    isolate: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="(str) with gradient accumulation, drop only the bad micro-batch and keep the rest of its window: "
        "auto (after a bad step, for isolate_hold healthy steps), always, never; costs one device read per micro-batch",
    )
    isolate_hold: int = Field(
        default=500,
        ge=1,
        description="(int) >= 1, healthy steps after which isolate: auto stops checking each micro-batch",
    )
    divergence: bool = Field(
        default=True,
        description="(bool) roll back and lower the learning rate when training diverges: the loss is far above its "
        "usual range and trusted weights give a much lower loss on the same batch, or steps change the weights too "
        "much",
    )
    snapshots: int = Field(
        default=3,
        ge=0,
        description="(int) >= 0, copies of the training state in host memory; use 2 or more, because the newest is not "
        "trusted yet; 0: none, and so neither repair nor rollback",
    )
    snapshot_memory: float = Field(
        default=4.0,
        gt=0,
        description="(float) > 0, GiB of host memory for snapshots; fewer are kept if they do not fit",
    )
    snapshot_share: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="(float) 0 to 1, largest share of the training time spent on snapshots; sets how often one is "
        "taken",
    )
    trust_steps: int = Field(
        default=10, ge=1, description="(int) >= 1, healthy steps after which a snapshot is trusted"
    )
    max_skips: int = Field(
        default=500, ge=1, description="(int) >= 1, optimizer steps skipped in a row after which training ends"
    )
    hopeless_after: int = Field(
        default=16,
        ge=0,
        description="(int) >= 0, if this many batches fail in a row from the first step on, also in fp32, training "
        "ends with an error, because it cannot succeed; 0: never",
    )
    max_rollbacks: int = Field(default=20, ge=0, description="(int) >= 0, rollbacks after which training ends")
    lr_backoff: float = Field(
        default=0.1, gt=0, le=1, description="(float) 0 to 1, factor on the learning rate after a divergence; 1: none"
    )
    lr_hold: int = Field(
        default=100,
        ge=1,
        description="(int) >= 1, healthy steps after which a lowered learning rate rises again, by 2 % a step (in a "
        "short training after a third of its steps); a rate at which training diverged twice is not used again",
    )
    reset_moments: bool = Field(
        default=False, description="(bool) reset the optimizer's moments in a rollback instead of restoring them"
    )
    precision_patience: int = Field(
        default=2,
        ge=1,
        description="(int) >= 1, precision is raised after this many of 100 steps overflowed in fp16 (or bf16) only",
    )
    precision_hold: int = Field(
        default=1000,
        ge=1,
        description="(int) >= 1, healthy steps after which a raised precision is lowered again; doubled each time",
    )
    on_exhausted: Literal["stop", "raise"] = Field(
        default="stop",
        description="(str) what happens when max_skips or max_rollbacks is reached: stop (like early stopping, with "
        "validation and checkpoints) or raise (an error)",
    )
