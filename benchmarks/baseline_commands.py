"""The evaluations of the baselines, for `scores.py`, and what they are called."""

from __future__ import annotations

MAZES = ("umaze", "medium", "large")
OFFLINE = {"bc": "behaviour cloning", "iql": "IQL", "awac": "AWAC", "td3_bc": "TD3+BC"}
ACTORS = "benchmarks/baselines/actors"
DIFFUSER = "--checkpoint runs/{m}-diffuser/checkpoint --schedule full_sequence --attention full"
OWN = "--executor diffused_actions --phase nearest --episodes 30"

COMMANDS = {
    **{
        f"{m}-{a}": f"--env maze2d-{m} --policy mlp:{ACTORS}/{m}-{a}.safetensors --episodes 100"
        for m in MAZES
        for a in OFFLINE
    },
    **{f"{m}-mppi": f"--env maze2d-{m} --policy mppi --episodes 30" for m in MAZES},
    **{f"{m}-diffuser-path": f"--env maze2d-{m} {DIFFUSER.format(m=m)} --episodes 100" for m in MAZES[:2]},
    **{f"{m}-diffuser-diffused": f"--env maze2d-{m} {OWN} {DIFFUSER.format(m=m)}" for m in MAZES[:2]},
}
