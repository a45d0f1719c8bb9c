"""Judge any policy by stable-baselines3's callbacks."""

from __future__ import annotations

from typing import Any

from dfplan_policies.sb3.package import stable_baselines3


class PoolMember:
    """Stand in for an algorithm where a callback asks for one: a policy that does not learn.

    Args:
        policy: Anything with ``predict``: a policy of this package, an algorithm of stable-baselines3.
        env: A ``VecEnv``; callbacks compare its kind with that of their own.
        num_timesteps: What callbacks report as the steps of training.
    """

    def __init__(self, policy: Any, env: Any, num_timesteps: int = 0) -> None:
        stable_baselines3("judging by callbacks")
        from stable_baselines3.common.logger import Logger

        self.policy, self.env, self.num_timesteps = policy, env, num_timesteps
        self.logger = Logger(None, [])

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """Choose actions; see `dfplan_policies.Policy`."""
        found: tuple[Any, Any] = self.policy.predict(
            observation, state=state, episode_start=episode_start, deterministic=deterministic
        )
        return found

    def get_env(self) -> Any:
        """Return the environments."""
        return self.env

    def get_vec_normalize_env(self) -> None:
        """Return None: observations are passed as they are."""

    def save(self, path: Any) -> None:
        """Save the policy if it can be; a callback asks for this when it has found its best."""
        if hasattr(self.policy, "save"):
            self.policy.save(path)


def judge(callback: Any, policy: Any, env: Any, *, num_timesteps: int = 0) -> float:
    """Let an ``EvalCallback`` judge a policy once, and return the mean return it found.

    Args:
        callback: An ``EvalCallback`` with ``eval_freq=1``; the same one may judge many.
        policy: Anything with ``predict``.
        env: A ``VecEnv`` of the same kind as the callback's.
        num_timesteps: What the callback notes as the steps of training.
    """
    member = PoolMember(policy, env, num_timesteps)
    callback.init_callback(member)
    callback.on_step()
    return float(callback.last_mean_reward)
