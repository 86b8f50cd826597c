"""The options of ``forensics``."""

from __future__ import annotations

from pydantic import Field

from yolo_gradsafe.config_base import Section

__all__ = ["ForensicsOptions"]


class ForensicsOptions(Section):
    """What is found out about the data before training, and about a bad step when there is one."""

    check_data: bool = Field(
        default=True,
        description="(bool) check labels and a sample of the images before training, for seconds at most, and warn; "
        "'gradsafe check' checks all",
    )

    diagnoses: int = Field(
        default=100,
        ge=0,
        description="(int) >= 0, bad steps that are looked into for the sample, the layer and the loss term; 0: none",
    )
    pictures: int = Field(
        default=20, ge=0, description="(int) >= 0, contact sheets of bad batches that are kept in stability/batches"
    )
    archive: bool = Field(
        default=False, description="(bool) keep bad batches themselves, too (npz), for 'gradsafe replay'"
    )
    quarantine: int = Field(
        default=2,
        ge=0,
        description="(int) >= 0, proven offences after which an image is left out of later batches; 0: never",
    )
