"""Whole episodes as one sequence: a policy that remembers everything, and a world model of the same weights."""

from __future__ import annotations

from dfplan.episode.layout import EpisodeSpec
from dfplan.episode.model import EpisodeModel, Imagined
from dfplan.episode.objective import episode_loss
from dfplan.episode.windows import EpisodeBatch, EpisodeWindows

__all__ = ["EpisodeBatch", "EpisodeModel", "EpisodeSpec", "EpisodeWindows", "Imagined", "episode_loss"]
