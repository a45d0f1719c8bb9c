"""Let the actor of an off-policy algorithm imitate what is in its replay buffer, before it learns by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dfplan_policies.sb3.buffers import _buffer


def imitate_buffer(
    model: Any, steps: int = 1000, batch_size: int = 256, *, on_step: Callable[[int, float], None] | None = None
) -> list[float]:
    """Regress the actor's deterministic action on the actions of the buffer: ``|tanh(mu(o)) - a|^2``.

    After `fill_replay_buffer` the actor begins where the policy that filled it stands, and not at random; noise on the
    stored actions averages out. Critics are left as they are.

    Args:
        model: SAC, TD3 or DDPG with something in its buffer.
        steps: Gradient steps of the actor's own optimiser.
        batch_size: Transitions per step.
        on_step: Called with the steps done and the loss.

    Returns:
        The loss of every step, in units of actions scaled to [-1, 1].

    Raises:
        TypeError: If the algorithm has no replay buffer, or no actor with continuous actions.
        ValueError: If the buffer is empty or a number is not positive.

    Source:
        Behaviour cloning as a warm start of an actor; the loss is the mean squared error over actions.
    """
    from torch.nn.functional import mse_loss

    buffer, actor = _buffer(model), getattr(model, "actor", None)
    if actor is None:
        raise TypeError(f"{type(model).__name__} has no actor to train; use SAC, TD3 or DDPG")
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be at least 1, got {steps} and {batch_size}")
    if buffer.size() == 0:
        raise ValueError("the replay buffer is empty; fill it first, fill_replay_buffer(model, policy)")
    losses = []
    actor.set_training_mode(True)
    for step in range(1, steps + 1):
        batch = buffer.sample(batch_size, env=model.get_vec_normalize_env())
        own = (
            actor(batch.observations, deterministic=True)
            if hasattr(actor, "action_dist")
            else actor(batch.observations)
        )
        loss = mse_loss(own, batch.actions)
        actor.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        actor.optimizer.step()
        losses.append(float(loss.detach()))
        if on_step is not None:
            on_step(step, losses[-1])
    actor.set_training_mode(False)
    target = getattr(model, "actor_target", None)
    if target is not None:
        target.load_state_dict(actor.state_dict())
    return losses
