"""What `dfplan eval` makes the arm's environments with."""

from __future__ import annotations

from typing import Any

import pytest

from dfplan.cli.evaluate_arm import draw, env_options


def asked(env_id: str = "fruit-swap-v0", **given: Any) -> dict[str, Any]:
    names = ("obs", "image_size", "occlude", "push", "distractors")
    return env_options(env_id, *(given.get(name) for name in names))


def test_what_is_dark_is_dark_for_the_state_too() -> None:
    """Catches an occlusion that a policy of states never sees, and one of the state under a policy of pictures."""
    assert asked() == {}
    assert asked(occlude=0.3) == {"occlude": 0.3, "occlude_state": True}
    assert asked(occlude=0.3, obs="image") == {"occlude": 0.3, "obs": "image"}
    assert asked(occlude=0.0) == {"occlude": 0.0}
    assert asked(push=True, distractors=2) == {"push": 1, "distractors": 2}
    assert asked(push=False, image_size=32) == {"push": 0, "image_size": 32}
    assert asked("arm-reach-v0", push=True) == {"push": 1}


def test_other_environments_have_no_such_options() -> None:
    """Catches an option of the arm that is passed on, or dropped, elsewhere."""
    assert asked("maze2d-large-v1") == {}
    with pytest.raises(ValueError, match="maze2d-large-v1 is no task of the arm and has no --image-size, --push"):
        asked("maze2d-large-v1", push=False, image_size=32)


def test_a_missing_extra_leaves_the_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    """Catches an evaluation that fails in the end because nothing can draw."""
    from dfplan.evaluation import films

    def missing(*arguments: Any) -> Any:
        raise ImportError("pip install 'dfplan[viz]'")

    monkeypatch.setattr(films, "draw_stages", missing)
    draw(None, {}, 2, tmp_path)  # type: ignore[arg-type]
    assert "no figures: pip install 'dfplan[viz]'" in capsys.readouterr().err
