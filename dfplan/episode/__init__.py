"""Whole episodes as one sequence: a policy that remembers everything, and a world model of the same weights."""

from __future__ import annotations

from dfplan.episode.layout import EpisodeSpec
from dfplan.episode.objective import episode_loss
from dfplan.episode.windows import EpisodeBatch, EpisodeWindows

__all__ = ["EpisodeBatch", "EpisodeSpec", "EpisodeWindows", "episode_loss"]
