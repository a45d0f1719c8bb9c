"""`dfplan train --only inverse`: give a checkpoint that exists an exact head for actions between clean states."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import typer

from dfplan.errors import unknown_name

PARTS = ("inverse",)


def fit_only(
    only: str | None, start: str | None, env: str, data: str | None, out: Path | None, seed: int, width: int
) -> None:
    """Fit the inverse head of a checkpoint and write the checkpoint anew; its other weights stay bit for bit.

    Raises:
        ValueError: If the part is unknown, the checkpoint is not named, or it has no separate action tokens.
    """
    if only not in PARTS:
        raise unknown_name("part to train alone", str(only), PARTS)
    if start is None:
        raise ValueError("--only adds to a checkpoint; name it: --start maze2d-large, or a folder")
    from tqdm import tqdm

    from dfplan.checkpoint import load_checkpoint, locate, read_config, save_checkpoint
    from dfplan.cli.train import _provenance, _resolve, _say
    from dfplan.cli.train_data import load_data
    from dfplan.inverse_training import InverseTraining, fit_inverse
    from dfplan.models import TransformerConfig, TransformerDenoiser

    found, settings = load_checkpoint(start), InverseTraining(seed=seed)
    old = found.model
    if not isinstance(old, TransformerDenoiser) or not isinstance(old.config, TransformerConfig):
        raise ValueError(f"an inverse head belongs to a transformer, but {found.name} is another network")
    model = TransformerDenoiser(found.spec, replace(old.config, inverse=width))
    if model.inverse is None:
        raise ValueError(f"--inverse must be at least 1 here, got {width}")
    episodes, origin = load_data(_resolve(env), data, seed, _say)
    kept = {n: v for n, v in old.state_dict().items() if not n.startswith("inverse.")}
    model.load_state_dict(kept, strict=False)
    with tqdm(total=settings.steps, desc="fit the inverse head", file=sys.stderr, unit="step") as bar:

        def watch(step: int, loss: float) -> None:
            bar.update(1)
            if step % 50 == 0:
                bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)

        loss = fit_inverse(model.inverse, episodes, found.plan_spec, found.norm, model.alpha_bar, settings, log=watch)
    part = {**_provenance(origin), "loss": loss, "settings": vars(settings), "width": width}
    provenance = {**found.provenance, "inverse_head": part}
    folder = out or Path("runs") / f"inverse-{found.name}"
    weights = read_config(locate(start))["weights_sha256"]
    provenance["inverse_head"]["added_to"] = {"name": found.name, "weights_sha256": weights}
    path = save_checkpoint(replace(found, model=model.eval(), provenance=provenance), folder / "checkpoint")
    typer.echo(f"{path}")
    _say(f"try it: dfplan eval --env {found.name} --executor diffused_actions --checkpoint {path}")
