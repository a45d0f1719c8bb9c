"""Imagined video of the robot arm: what the model expects to see, beside what the simulator shows for the same acts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dfplan.episode import EpisodeModel
from dfplan.evaluation.rollout import episode_seed, make_env
from dfplan.noise import normal_like
from dfplan.vision import quality_curves
from dfplan_policies.episode import CAMERAS, picture_columns

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Film:
    """Hold a real and an imagined film of n blocks.

    Attributes:
        real: uint8 (n + 1, cameras, S, S, 3), what the simulator shows, the first moment and after each block.
        decoded: The same pictures, encoded and decoded: the best that could be imagined.
        imagined: The same shape; its first frame is the decoded real one.
        actions: (n*F, A), what was done in both.
        stage: The furthest stage that the simulator came to.
    """

    real: Frames
    decoded: Frames
    imagined: Frames
    actions: NDArray[np.float32]
    stage: int

    def quality(self) -> dict[str, dict[str, list[float]]]:
        """Return PSNR (dB) and SSIM per frame after the first: of the film, of decoding alone, of a still picture."""
        still = np.repeat(self.real[:1], len(self.real), axis=0)
        others = {"imagined": self.imagined, "decoded": self.decoded, "still": still}
        return {
            name: {key: [float(v) for v in curve] for key, curve in quality_curves(self.real[1:], film[1:]).items()}
            for name, film in others.items()
        }


def imagine_film(
    model: EpisodeModel, env_id: str, number: int, blocks: int, *, seed: int = 0,
    actions: NDArray[np.float32] | None = None, context: int = 0, k_small: int = 0,
) -> Film:  # fmt: skip
    """Imagine an episode from its first frame, and let the simulator do the same.

    Args:
        model: Of pictures: a checkpoint with an image autoencoder.
        env_id: The environment.
        number: Of the episode; with ``seed`` it decides the start.
        blocks: n, blocks to imagine.
        seed: Of the run.
        actions: (m, A) that are given, at least ``(context + n) * F`` of them; None lets the model choose.
        context: Blocks of the real episode that are shown before; needs actions.
        k_small: Level at which imagined tokens are remembered.

    Raises:
        ValueError: If the checkpoint has no image autoencoder, or there are too few actions.
    """
    if model.encoder is None:
        raise ValueError("imagining films needs a checkpoint of pictures, one with an image autoencoder")
    F, size, encoder = model.spec.stride, model.encoder.config.image_size, model.encoder
    if (context and actions is None) or (actions is not None and len(actions) < (context + blocks) * F):
        raise ValueError(f"{(context + blocks) * F} actions are needed, got {0 if actions is None else len(actions)}")
    env: Any = make_env(env_id, {"obs": "image", "image_size": size, "camera_every": F})
    try:
        seen, info = env.reset(seed=episode_seed(seed, number))
        draw, memory = normal_like(torch.Generator().manual_seed(episode_seed(seed, number))), None
        for block in range(context + 1):
            columns = picture_columns(encoder, seen, mark=False)[0]
            memory = model.seen(
                memory, torch.as_tensor(columns if model.spaces is None else model.spaces.observation.pick(columns))
            )
            if block < context and actions is not None:
                own = actions[block * F : (block + 1) * F]
                memory = model.done(memory, torch.as_tensor(own)[None])
                seen, info = _act(env, own, info)
        given = None if actions is None else torch.as_tensor(actions[context * F : (context + blocks) * F])[None]
        future = model.imagine(memory, blocks, draw, given, k_small)
        done = np.clip(future.actions[0].cpu().numpy().astype(np.float32), -1.0, 1.0)
        real = [_frame(seen)]
        for block in range(blocks):
            seen, info = _act(env, done[block * F : (block + 1) * F], info)
            real.append(_frame(seen))
    finally:
        env.close()
    latents = future.observations[0, :, -encoder.latent_dim :]
    frames = np.stack(real)
    decoded = encoder.decode(encoder.encode(torch.from_numpy(frames))).cpu().numpy()
    imagined = np.concatenate([decoded[:1], encoder.decode(latents.float()).cpu().numpy()])
    return Film(frames, decoded, imagined, done, int(info["stage"]))


def _act(env: Any, actions: NDArray[np.float32], info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Take a block of actions; an episode that has ended stands still."""
    seen: Any = env.unwrapped.observe()
    for action in actions:
        if info.get("success") or info.get("over"):
            break
        seen, _, terminated, truncated, info = env.step(action)
        info["over"] = terminated or truncated
    return seen, info


def _frame(seen: Any) -> Frames:
    return np.stack([seen[camera] for camera in CAMERAS])


def beside_cameras(frames: Frames) -> Frames:
    """Lay the cameras of frames (n, cameras, S, S, 3) out side by side, (n, S, cameras * S, 3)."""
    return np.concatenate(list(frames.transpose(1, 0, 2, 3, 4)), axis=2)
