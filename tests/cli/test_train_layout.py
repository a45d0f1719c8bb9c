"""The layout and the columns that `dfplan train` chooses."""

from __future__ import annotations

import numpy as np
import pytest

from dfplan.cli.train_layout import layout, read_columns, recipe_of, select, spaces_of
from dfplan.data import Episodes
from dfplan.data.trajectories import vector_spaces
from dfplan.episode import EpisodeSpec
from dfplan.tokens import TokenSpec


def data(width: int = 6, told: bool = True) -> Episodes:
    seen = np.arange(8.0 * width).reshape(8, width)
    meta = {"id": "x", **({"spaces": vector_spaces(width, 2)} if told else {})}
    return Episodes(seen, np.zeros((6, 2)), np.ones(6), np.array([4, 2]), meta, np.array([True, False]))


def test_columns_are_read_as_numbers_and_ranges() -> None:
    """Catches a range without its end, and spaces that are not forgiven."""
    assert read_columns("0-2,5, 7-8") == [0, 1, 2, 5, 7, 8] and read_columns("3") == [3]


@pytest.mark.parametrize("text", ["", "a", "1,", "-3", "1-", "2-x", "1--2", "5-3", "0-2,5-3", "²"])
def test_what_is_no_column_is_refused(text: str) -> None:
    """Catches a part that is skipped without a word (a range that runs backwards), and a bare int() error."""
    with pytest.raises(ValueError, match="columns are numbers and ranges such as 0-19,24-26, got"):
        read_columns(text)
    with pytest.raises(ValueError, match="columns must be different ones"):
        read_columns("0-2,1")


def test_chosen_columns_are_kept_in_data_and_spaces() -> None:
    """Catches spaces that still name all columns (a policy would be shown those), and data that are lost on the way."""
    chosen = select(select(data(), "4-5,0,2"), "3,1-2")
    spaces = spaces_of(chosen)
    assert spaces is not None and spaces.observation.keep == (2, 5, 0)
    whole = data()
    np.testing.assert_array_equal(chosen.observations, whole.observations[:, [2, 5, 0]])
    np.testing.assert_array_equal(spaces.observation.encode(whole.observations), chosen.observations)
    np.testing.assert_array_equal(chosen.rewards, whole.rewards)
    assert chosen.terminated.tolist() == [True, False] and chosen.meta["id"] == "x"
    with pytest.raises(ValueError, match="the data have the columns 0 to 5, got '3-6'"):
        select(data(), "3-6")
    with pytest.raises(ValueError, match="do not say which space they are of"):
        select(data(told=False), "0")


def test_the_recipe_of_the_arm_is_of_whole_episodes() -> None:
    """Catches a layout without its time step, its blocks, or `--forgetful`; options that have no meaning there."""
    recipe = recipe_of("fruit-swap-v0", horizon=9)
    assert layout(data(), recipe, 0, None) == EpisodeSpec(6, 2, 6, 9, 0.1)
    assert layout(data(), recipe, 0, None, whole=False) == EpisodeSpec(6, 2, 6, 9, 0.1, whole=False)
    for history, discount in ((2, None), (0, 0.99)):
        with pytest.raises(ValueError, match="neither --history nor --discount"):
            layout(data(), recipe, history, discount)
    assert isinstance(layout(data(), recipe_of("maze2d-umaze-v1"), 0, None), TokenSpec)
