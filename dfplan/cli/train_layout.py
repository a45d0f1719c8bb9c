"""The token layout that `dfplan train` uses: from the options, the environment's recipe, and the spaces of the data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dfplan.data import Episodes
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


def layout(episodes: Episodes, recipe: Recipe, history: int, discount: float | None) -> TokenSpec:
    """Choose the layout.

    Args:
        episodes: The data.
        recipe: Stride, horizon, kind of token, discount.
        history: Past tokens.
        discount: Of returns; None takes the recipe's, or for a task without goals the usual one; 0 leaves them out.

    Raises:
        ValueError: If the options do not go together.
    """
    from dfplan.tokens import TokenSpec

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


def discount_of(spec: TokenSpec, recipe: Recipe, discount: float | None) -> float | None:
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
