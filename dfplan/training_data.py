"""What a training run draws its batches from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dfplan.episode import EpisodeSpec, EpisodeWindows
from dfplan.tokens import Normalizer, TokenSpec
from dfplan.windows import EpisodeArrays, MixedWindows, Replay, WindowSampler, terminated_of

if TYPE_CHECKING:
    from dfplan.training import TrainConfig

Layouts = TokenSpec | EpisodeSpec
Windows = WindowSampler | MixedWindows | EpisodeWindows


def split_episodes(episodes: EpisodeArrays, share: float, seed: int) -> tuple[Any, Any]:
    """Split off held-out episodes; returns (training, held out), the latter None if the share rounds to none."""
    from dfplan.data.episodes import Episodes

    lengths = np.asarray(episodes.lengths)
    count = int(len(lengths) * share)
    if count == 0:
        return episodes, None
    chosen = np.zeros(len(lengths), dtype=bool)
    chosen[np.random.default_rng([seed, 7]).permutation(len(lengths))[:count]] = True

    ended, imitated = terminated_of(episodes), getattr(episodes, "imitated", None)

    def take(keep: Any) -> Episodes:
        act, obs = np.repeat(keep, lengths), np.repeat(keep, lengths + 1)
        rows = episodes.observations[obs], episodes.actions[act], episodes.rewards[act]
        flags = np.zeros(int(keep.sum()), dtype=bool) if ended is None else ended[keep]
        return Episodes(
            *rows, lengths[keep], terminated=flags, imitated=None if imitated is None else imitated[act]
        )  # fmt: skip

    return take(~chosen), take(chosen)


def source_of(
    episodes: EpisodeArrays, spec: Layouts, norm: Normalizer, config: TrainConfig, replay: Replay | None = None
) -> Windows:
    """Return what draws the batches of a run: windows, or whole episodes.

    Raises:
        ValueError: For whole episodes and a replay.
    """
    if not isinstance(spec, EpisodeSpec):
        return window_source(episodes, spec, norm, config, replay)
    if replay is not None:
        raise ValueError("whole episodes are trained on data alone, got a replay; mix the data sets first")
    return EpisodeWindows(episodes, spec, norm, config.phases)


def window_source(
    episodes: EpisodeArrays, spec: TokenSpec, norm: Normalizer, config: TrainConfig, replay: Replay | None = None
) -> WindowSampler | MixedWindows:
    """Return what draws the windows of a run: out of the data, or out of the data and the replay."""
    shares = {"end_goal": config.end_goal, "no_goal": config.no_goal, "begin": config.begin}
    windows = WindowSampler(episodes, spec, norm, **shares)
    if replay is None:
        return windows
    return MixedWindows(windows, WindowSampler(replay.episodes, spec, norm, **shares), replay.share)
