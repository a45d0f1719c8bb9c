"""`dfplan imagine`: a film of what the model expects, beside what the simulator shows for the same actions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfplan.cli import options as o

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dfplan.evaluation.imagined import Film


def imagine_command(
    env: Annotated[str, typer.Option(help="A task of the robot arm.")] = "fruit-swap",
    actions: Annotated[str, typer.Option(help="model (it chooses what it does) or expert (given).")] = "model",
    blocks: Annotated[int, typer.Option(min=1, help="How long: blocks of the checkpoint's stride.")] = 24,
    context: Annotated[int, typer.Option(min=0, help="expert: blocks that are shown before; 0: a single frame.")] = 0,
    films: Annotated[int, typer.Option(min=1, help="How many, from different starts.")] = 4,
    k_small: Annotated[
        float, typer.Option(help="Level, as a share of K, at which what is imagined is remembered.")
    ] = 0.0,
    seed: o.Seed = 0,
    checkpoint: o.CheckpointName = None,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    out: o.Out = None,
    json: o.Json = False,
) -> None:
    """Imagine films from single frames, and measure them against the simulator (extras bullet, viz)."""
    import torch

    from dfplan.episode import EpisodeModel
    from dfplan.evaluation.imagined import imagine_film
    from dfplan_envs import resolve

    if actions not in ("model", "expert"):
        raise ValueError(f"--actions must be model or expert, got {actions!r}")
    if threads is not None:
        torch.set_num_threads(threads)
    o.check_device(device)
    env_id = resolve(env)
    chosen = checkpoint or f"{o.base_name(env_id)}-image"
    model = EpisodeModel.from_pretrained(chosen, device=device)
    folder = o.run_folder(out, f"{env_id}-imagined")
    found = []
    for number in range(films):
        given = _expert(env_id, seed, number) if actions == "expert" else None
        length = blocks if given is None else min(blocks, len(given) // model.spec.stride - context)
        level = round(k_small * model.levels)
        film = imagine_film(model, env_id, number, length, seed=seed, actions=given, context=context, k_small=level)
        found.append(film)
        _write(film, folder / f"film-{number}.mp4", 10.0 / model.spec.stride)
        typer.echo(f"film {number}: {_line(film)}", err=True)
    settings = {"env": env_id, "actions": actions, "context": context, "seed": seed, "checkpoint": chosen}
    _report(found, settings, folder, json)


def _expert(env_id: str, seed: int, number: int) -> NDArray[np.float32]:
    """Let the scripted expert play the episode, and return its actions."""
    import numpy as np

    from dfplan.evaluation import episode_seed
    from dfplan.evaluation.rollout import make_env
    from dfplan_envs.arm.expert import SwapExpert

    env: Any = make_env(env_id)
    try:
        env.reset(seed=episode_seed(seed, number))
        expert, taken, over = SwapExpert(number, noise=0.004), [], False
        while not over:
            taken.append(expert.act(env.unwrapped.view()))
            _, _, terminated, truncated, _ = env.step(taken[-1])
            over = terminated or truncated
    finally:
        env.close()
    return np.stack(taken).astype(np.float32)


def _write(film: Film, path: Path, fps: float) -> None:
    from dfplan.evaluation.imagined import beside_cameras
    from dfplan.vision import write_side_by_side

    titles = {"simulator": film.real, "imagined": film.imagined}
    write_side_by_side(path, {name: beside_cameras(frames) for name, frames in titles.items()}, fps=fps)


def _line(film: Film) -> str:
    import numpy as np

    rows = film.quality()
    return ", ".join(
        f"{name} {np.mean(curves['psnr']):.1f} dB {np.mean(curves['ssim']):.3f}" for name, curves in rows.items()
    )


def _report(films: list[Film], settings: dict[str, Any], folder: Path, json: bool) -> None:
    """Write and print quality by time, over all films."""
    import numpy as np

    from dfplan import provenance
    from dfplan.evaluation.files import to_json, write_json
    from dfplan.plotting import Line, Panel, panels_figure

    each = [film.quality() for film in films]
    shortest = min(len(q["imagined"]["psnr"]) for q in each)
    curves = {
        name: {key: np.mean([q[name][key][:shortest] for q in each], axis=0).tolist() for key in ("psnr", "ssim")}
        for name in ("imagined", "decoded", "still")
    }
    result = {
        **settings, "films": len(films), "blocks": shortest, "stages": [film.stage for film in films],
        "mean": {name: {key: float(np.mean(v)) for key, v in row.items()} for name, row in curves.items()},
        "curves": curves, "versions": provenance.versions(), "git": provenance.git(),
        "hardware": provenance.hardware(), "command": provenance.command(),
    }  # fmt: skip
    write_json(folder / "quality.json", result)
    try:
        steps = np.arange(1.0, shortest + 1)
        panels = [
            Panel(title, "blocks", unit, lines=[Line(name, steps, row[key]) for name, row in curves.items()])
            for key, title, unit in (("psnr", "PSNR", "dB"), ("ssim", "SSIM", ""))
        ]
        panels_figure(folder / "quality.png", panels)
    except ImportError as error:
        typer.echo(f"no figure: {error}", err=True)
    if json:
        typer.echo(to_json(result), nl=False)
    else:
        for name, row in result["mean"].items():
            typer.echo(f"{name:9} PSNR {row['psnr']:.2f} dB, SSIM {row['ssim']:.3f}")
    typer.echo(f"run folder: {folder}", err=json)
