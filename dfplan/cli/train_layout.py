"""The token layout that `dfplan train` uses: from the options, the environment's recipe, and the spaces of the data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dfplan.data import Episodes
    from dfplan.episode import EpisodeSpec
    from dfplan.recipes import Recipe
    from dfplan.spaces import Spaces
    from dfplan.tokens import Normalizer, TokenSpec

DISCOUNT = 0.99  # of tasks that have no goal and no recipe


def recipe_of(env_id: str, **chosen: Any) -> Recipe:
    """Return an environment's recipe, the general one if it has none of its own, with what was chosen put in.

    Args:
        env_id: The environment.
        **chosen: Fields of `Recipe`; None leaves the recipe's.
    """
    from dfplan.recipes import GENERAL, recipe_for

    try:
        recipe = recipe_for(env_id)
    except ValueError:
        recipe = GENERAL
    return replace(recipe, **{name: value for name, value in chosen.items() if value is not None})


def spaces_of(episodes: Episodes) -> Spaces | None:
    """Return the spaces that the data were made in; None if they do not say, and columns are what they are."""
    from dfplan.spaces import Spaces

    found = episodes.meta.get("spaces")
    return Spaces.from_dict(found) if found else None


def read_columns(text: str) -> list[int]:
    """Read "0-19,24-26" as numbers.

    Raises:
        ValueError: If the text is something else.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not (last.isdecimal() and int(first) <= int(last))):
            raise ValueError(f"columns are numbers and ranges such as 0-19,24-26, got {text!r}")
        found += range(int(first), int(last or first) + 1)
    if len(set(found)) != len(found) or not found:
        raise ValueError(f"columns must be different ones, and at least one, got {text!r}")
    return found


def read_differences(text: str) -> list[tuple[int, int]]:
    """Read "17-19:7-9" as pairs of numbers, (17, 7), (18, 8), (19, 9).

    Raises:
        ValueError: If the text is something else.
    """
    found: list[tuple[int, int]] = []
    for part in filter(None, text.split(",")):
        first, colon, second = part.partition(":")
        ranges = (read_columns(first), read_columns(second)) if colon else ([], [0])
        if len(ranges[0]) != len(ranges[1]):
            raise ValueError(f"differences are pairs of ranges of one length such as 17-19:7-9, got {text!r}")
        found += zip(*ranges, strict=True)
    return found


def select(episodes: Episodes, text: str, differences: str = "") -> Episodes:
    """Keep some columns of the observations, append differences, and say so in the spaces of the data.

    Raises:
        ValueError: If the text cannot be read, or there is no such column.
    """
    import numpy as np

    from dfplan.data import Episodes
    from dfplan.spaces import Spaces

    columns, pairs, width = read_columns(text), read_differences(differences), episodes.observations.shape[1]
    if max([*columns, *(c for pair in pairs for c in pair)]) >= width:
        raise ValueError(f"the data have the columns 0 to {width - 1}, got {text!r}")
    spaces = spaces_of(episodes)
    if spaces is None:
        raise ValueError("the data do not say which space they are of, so columns cannot be chosen; make them again")
    codec = spaces.observation.keeping(columns, pairs)
    meta = {**episodes.meta, "spaces": Spaces(codec, spaces.action).to_dict()}
    e, seen = episodes, episodes.observations[:, columns]
    if pairs:
        first, second = (list(numbers) for numbers in zip(*pairs, strict=True))
        seen = np.concatenate([seen, e.observations[:, first] - e.observations[:, second]], axis=1)
    return Episodes(seen, e.actions, e.rewards, e.lengths, meta, e.terminated)


def layout(
    episodes: Episodes, recipe: Recipe, history: int, discount: float | None, whole: bool = True
) -> TokenSpec | EpisodeSpec:
    """Choose the layout.

    Args:
        episodes: The data.
        recipe: Stride, horizon, kind of token, discount.
        history: Past tokens.
        discount: Of returns; None takes the recipe's, or for a task without goals the usual one; 0 leaves them out.
        whole: Of the kind ``episode``, whether it begins where the episode does.

    Raises:
        ValueError: If the options do not go together.
    """
    from dfplan.episode.layout import KIND, EpisodeSpec
    from dfplan.tokens import TokenSpec

    if recipe.tokens == KIND:
        if history or discount:
            raise ValueError("whole episodes need neither --history nor --discount; leave them out")
        widths = episodes.observations.shape[1], episodes.actions.shape[1]
        return EpisodeSpec(*widths, recipe.stride, recipe.horizon, recipe.dt_s, whole)
    O, spaces = episodes.observations.shape[1], spaces_of(episodes)  # noqa: E741
    goal: tuple[int, ...] = (0, 1) if spaces is None else spaces.observation.goal_columns
    maze = recipe.tokens != "bundle" or spaces is None
    wanted = recipe.discount if discount is None else discount
    wanted = DISCOUNT if wanted is None and not goal else wanted
    return TokenSpec(
        O, episodes.actions.shape[1], recipe.stride, recipe.horizon, dt_s=recipe.dt_s, kind=recipe.tokens,
        history=history, goal_columns=goal, rest_columns=(2, 3) if maze and O >= 4 else (),
        rewards=bool(wanted) and recipe.tokens == "bundle", returns=bool(wanted),
    )  # fmt: skip


def discount_of(spec: TokenSpec | EpisodeSpec, recipe: Recipe, discount: float | None) -> float | None:
    """Return the discount of the layout's returns, None if it holds none."""
    if not spec.returns:
        return None
    return discount or recipe.discount or DISCOUNT


def learn_return(
    episodes: Episodes, spec: TokenSpec, norm: Normalizer, checkpoint: Path, steps: int, seed: int,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Train the model that tells what a plan is worth, and put it beside the checkpoint's weights.

    What is there already for the same weights is kept.
    """
    import sys

    from tqdm import tqdm

    from dfplan.checkpoint import load_checkpoint
    from dfplan.value import ValueConfig, ValueTraining, save_value, start_return, train_value
    from dfplan.windows import WindowSampler

    model = load_checkpoint(checkpoint).model
    windows = WindowSampler(episodes, spec, norm, no_goal=0.0)
    with tqdm(total=steps, desc="learned return", file=sys.stderr, unit="step") as bar:

        def watch(step: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update(1)

        value = train_value(
            windows.draw, start_return(spec, norm), spec, ValueConfig(levels=model.levels, noise=model.config.noise),
            ValueTraining(steps=steps, seed=seed), progress=watch,
        )  # fmt: skip
    save_value(value, checkpoint, about={"steps": steps, "seed": seed, "of": "the return of a window's start"})
    say(f"learned return: {checkpoint / 'value.safetensors'}")
