"""The options of ``forensics``."""

from __future__ import annotations

from pydantic import Field

from yolo_gradsafe.config_base import Section

__all__ = ["ForensicsOptions"]


class ForensicsOptions(Section):
    """What is found out about the data before training, and about a bad step when there is one."""

    check_data: bool = Field(
        default=True,
        description="(bool) check all labels and some images before training (a few seconds at most) and warn; "
        "'gradsafe check' checks all images",
    )

    diagnoses: int = Field(
        default=100,
        ge=0,
        description="(int) >= 0, number of bad steps that are investigated: which image, layer and loss term; 0: none",
    )
    pictures: int = Field(
        default=20, ge=0, description="(int) >= 0, number of pictures of bad batches kept in stability/batches"
    )
    archive: bool = Field(
        default=False, description="(bool) also keep the data of bad batches (npz), for 'gradsafe replay'"
    )
    quarantine: int = Field(
        default=2,
        ge=0,
        description="(int) >= 0, an image that made this many batches fail is left out of later batches; if its "
        "file is fine, a healthy step with it starts the count anew; 0: never",
    )
