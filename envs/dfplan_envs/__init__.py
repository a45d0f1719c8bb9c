"""Environments of dfplan: Gymnasium on MuJoCo, no torch."""

from __future__ import annotations
