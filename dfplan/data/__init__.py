"""Offline data: episodes in memory, and readers and writers for the files they live in."""

from __future__ import annotations

from dfplan.data.episodes import Episodes, episodes_from_tours
from dfplan.data.loading import load_episodes
from dfplan.data.npz import load_npz, save_npz

__all__ = ["Episodes", "episodes_from_tours", "load_episodes", "load_npz", "save_npz"]
