"""What `dfplan eval` adds for the robot arm's tasks: disturbances, a figure of the stages, videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dfplan.evaluation import Report

Obs = Annotated[str | None, typer.Option(help="Arm: what is observed, state (default) or image.")]
ImageSize = Annotated[int | None, typer.Option(help="Arm: pixels of an observed picture, 32, 64 (default) or 128.")]
Occlude = Annotated[
    float | None, typer.Option(help="Arm: share of the time in which cameras are dark, or the state lacks the fruits.")
]
Push = Annotated[
    bool | None, typer.Option("--push/--no-push", help="Arm: one external push, or knock out of the gripper.")
]
Distractors = Annotated[int | None, typer.Option(help="Arm: objects that are only seen, 0 to 8.")]
Missing = Annotated[
    str | None,
    typer.Option(help="episode: predicted (labelled with a level above 0) or clean (as if nobody had noticed)."),
]
MissingLevel = Annotated[
    float | None, typer.Option(help="episode: level of what is missing, as a share of K; 1 looks away.")
]
Temperature = Annotated[
    float | None, typer.Option(help="episode: noise that actions are sampled from; 1 is the data's law, 0 no chance.")
]
Candidates = Annotated[
    int | None, typer.Option(min=1, help="episode: blocks of actions to choose the most usual one from.")
]
Videos = Annotated[int | None, typer.Option(help="Arm: episodes to film (2), failures first.")]
ARMS = ("fruit-swap", "arm-")


def env_options(
    env_id: str, obs: str | None, image_size: int | None, occlude: float | None, push: bool | None,
    distractors: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Return what the environment is made with.

    Raises:
        ValueError: If options of an arm are given for something else.
    """
    given = {"obs": obs, "image_size": image_size, "occlude": occlude, "push": push, "distractors": distractors}
    asked = {name: value for name, value in given.items() if value is not None}
    if not asked:
        return {}
    if not env_id.startswith(ARMS):
        names = ", ".join("--" + name.replace("_", "-") for name in asked)
        raise ValueError(f"{env_id} is no task of the arm and has no {names}; leave it out")
    if "push" in asked:
        asked["push"] = int(asked["push"])
    if asked.get("occlude") and asked.get("obs", "state") != "image":
        asked["occlude_state"] = True
    return asked


def draw(report: Report, kwargs: dict[str, Any], videos: int, folder: Path) -> None:
    """Draw success by stage and film some episodes; without an extra, say in one line what brings them."""
    from dfplan.evaluation import films

    try:
        films.draw_stages({"": report}, folder / "stages.png")
        for path in films.film(report, kwargs, videos, folder):
            typer.echo(f"video: {path}", err=True)
    except ImportError as error:
        typer.echo(f"no figures: {error}", err=True)
