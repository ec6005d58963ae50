"""The precisions in which a model may answer."""

from __future__ import annotations

import enum


class Precision(enum.StrEnum):
    """Which of a model's files answers. AUTO: the quicker one on this machine."""

    AUTO = "auto"
    FP32 = "fp32"
    INT8 = "int8"
