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
        description="(bool) act on steps that would harm the model; False observes only",
    )
    scale_floor: float = Field(
        default=1.0,
        gt=0,
        description="(float) > 0, AMP loss scale at or below which non-finite gradients are no longer GradScaler's "
        "routine search for a scale; the scale never falls below it",
    )
    scale_hysteresis: int = Field(
        default=1,
        ge=1,
        description="(int) >= 1, AMP overflows in a row that it takes to halve the loss scale; 1 is GradScaler's "
        "own rule",
    )
    isolate: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="(str) with gradient accumulation, drop a bad micro-batch and keep the rest of its window: auto "
        "(from the first bad step on, for isolate_hold healthy steps), always, never; costs a host read a micro-batch",
    )
    isolate_hold: int = Field(
        default=500, ge=1, description="(int) >= 1, healthy steps after which isolate: auto stops to look"
    )
    divergence: bool = Field(
        default=True,
        description="(bool) roll back and lower the learning rate when losses leave their range and trusted weights do "
        "several times better on the same batch, or when steps move the weights too far",
    )
    snapshots: int = Field(
        default=3,
        ge=0,
        description="(int) >= 0, copies of the training state in host memory, one of them on trial, hence two or more; "
        "0: none, and neither healing nor rollback",
    )
    snapshot_memory: float = Field(
        default=4.0,
        gt=0,
        description="(float) > 0, GiB of host memory that snapshots may take; fewer are kept when they do not fit",
    )
    snapshot_share: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="(float) 0 to 1, share of the training time that snapshots may take; sets their interval",
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
        description="(int) >= 0, batches that fail one after the other from the first step on, in fp32 as well, after "
        "which training ends: it cannot succeed; 0: never",
    )
    max_rollbacks: int = Field(default=20, ge=0, description="(int) >= 0, rollbacks after which training ends")
    lr_backoff: float = Field(
        default=0.1, gt=0, le=1, description="(float) 0 to 1, factor on the learning rate after a divergence; 1: none"
    )
    lr_hold: int = Field(
        default=100,
        ge=1,
        description="(int) >= 1, healthy steps after which a lowered learning rate grows back, 2 % a step; a rate that "
        "diverges twice is not gone back to",
    )
    reset_moments: bool = Field(
        default=False, description="(bool) drop the optimizer's moments at a rollback instead of restoring them"
    )
    precision_patience: int = Field(
        default=2,
        ge=1,
        description="(int) >= 1, steps within 100 that overflow in fp16 (bf16) alone after which precision is raised",
    )
    precision_hold: int = Field(
        default=1000,
        ge=1,
        description="(int) >= 1, healthy steps after which a raised precision is lowered again; doubled each time",
    )
    on_exhausted: Literal["stop", "raise"] = Field(
        default="stop",
        description="(str) how training ends when the budgets are spent: stop (as by early stopping, with validation "
        "and checkpoints) or raise an error",
    )
