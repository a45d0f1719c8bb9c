"""Fine-tune a planner online: it acts, is trained on what it did beside the old data, and acts again."""

from __future__ import annotations

from dfplan.finetuning.config import FinetuneConfig
from dfplan.finetuning.loop import finetune

__all__ = ["FinetuneConfig", "finetune"]
