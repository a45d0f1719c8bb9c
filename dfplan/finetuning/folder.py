"""The run folder: whose it is, and how far it has come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dfplan.evaluation.files import plain, write_json
from dfplan.evaluation.report import flatten

CONFIG, RESULT, EVALUATION = "config.json", "round.json", "evaluation.json"
FORMAT = "dfplan-finetune-1"


def open_run(folder: Path, identity: dict[str, Any], rounds: int, about: dict[str, Any]) -> dict[str, Any]:
    """Begin a run folder, or take up the one that is there.

    Args:
        folder: Made if it is missing.
        identity: What the results depend on.
        rounds: Rounds that are asked for; more than there were go on.
        about: Anything worth knowing (command, versions, where the data are from); that of the first call is kept.

    Returns:
        The folder's configuration; its entry ``about`` is the first call's.

    Raises:
        ValueError: If the folder is another run's, holds something else, has more rounds, or cannot be written to.
    """
    own = plain(json.loads(json.dumps(identity)))
    found = _read(folder)
    if found is not None:
        _check_same(folder, found["run"], own)
        done = len(list(folder.glob(f"rounds/*/{RESULT}")))
        if rounds < done:
            raise ValueError(
                f"{folder} holds {done} finished rounds, {rounds} are asked for; ask for {done} or more (--rounds), or "
                "name another folder (--out)"
            )
        about = found["about"]
    config = {"format": FORMAT, "rounds": rounds, "run": own, "about": about}
    try:
        write_json(folder / CONFIG, config)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written to ({error}); name another folder (--out)") from error
    return config


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / CONFIG
    try:
        if not path.is_file():
            if folder.is_dir() and any(folder.iterdir()):
                raise ValueError(f"{folder} holds something else than a fine-tuning run; name an empty folder (--out)")
            return None
        found = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); name another folder (--out)") from error
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error}); name another folder (--out)") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{folder} is the folder of another kind of run; name an empty folder (--out)")
    return found


def _check_same(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    there, here = flatten(found), flatten(wanted)
    other = [key for key in sorted({*there, *here}) if there.get(key) != here.get(key)]
    if other:
        told = ", ".join(f"{key} {there.get(key)!r} there, {here.get(key)!r} asked" for key in other)
        raise ValueError(f"{folder} was begun with something else: {told}; repeat that, or name another folder (--out)")
