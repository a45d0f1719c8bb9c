"""Act on a long history one token at a time, and roll a model out far past what it was trained on.

A `Stream` is what a model remembers of a sequence so far. Real tokens are appended with `seen`, futures are sampled
with `ahead`, and a roll-out is the two in turn. Appending a token costs one token, however long the history is.

Three ways to treat what came before are a matter of labels only:

* trusted: appended at level 0;
* stabilised: generated tokens are noised a little and labelled so (``0 < k_small << K``), which keeps small errors
  from being taken at face value (arXiv 2407.01392, section 3.3);
* dropped: begin a new stream, or append at level K, which tells nothing (section 4.3; the two are the same to the
  transformer, while a recurrent network is told that time has passed).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dfplan.models.base import Cond, remember
from dfplan.noise import Draw, add_noise, check_levels
from dfplan.sampler import sample
from dfplan.schedule import make_schedule


@dataclass(frozen=True)
class Sampling:
    """Say how the tokens ahead are denoised.

    Attributes:
        steps: Reverse steps per token, 1..K.
        schedule: Name of the scheduling matrix.
        slope: Slope of a zig-zag in rows per token.
        eta: 0 (DDIM) to 1 (DDPM).
        causal: Causal or full attention; full attention cannot use a memory.
    """

    steps: int = 20
    schedule: str = "pyramid"
    slope: float = 1.0
    eta: float = 0.0
    causal: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}; 0 is DDIM, 1 is DDPM")


@dataclass(frozen=True)
class Stream:
    """Hold what a model remembers of B sequences.

    Attributes:
        model: A denoiser of a plain sequence (`dfplan.layout.SequenceSpec`) that remembers.
        memory: Its memory, None before the first token.
        window: Tokens that are remembered at most; None for all. A recurrent model ignores it.
    """

    model: Any
    memory: Any = None
    window: int | None = None

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}; None remembers everything")

    def seen(self, x: Tensor, k: Tensor | int = 0) -> Stream:
        """Append tokens.

        Args:
            x: (B, n, D), at the levels ``k``: a token with noise in it is scaled as the forward process scales it.
            k: One level for all, or int64 (B, n). K is a token that is missing.

        Returns:
            The new stream; this one is as it was.

        Raises:
            ValueError: If a shape is wrong, or x is not finite.
        """
        if x.ndim != 3:
            raise ValueError(f"x must have shape (B, n, D), got {tuple(x.shape)}")
        if not bool(torch.isfinite(x).all()):
            raise ValueError("x holds NaN or infinity; pass a missing token as any number at level K")
        levels = torch.as_tensor(k, device=x.device).expand(x.shape[:2]).contiguous()
        check_levels(levels, x.shape[:2], len(self.model.alpha_bar) - 1)
        with torch.no_grad():
            memory = remember(self.model, x, levels, Cond(memory=self.memory))
        return replace(self, memory=memory if self.window is None else memory.last(self.window))

    def ahead(self, horizon: int, draw: Draw, how: Sampling | None = None, *, like: Tensor | None = None) -> Tensor:
        """Sample the next ``horizon`` tokens, one future for each remembered sequence.

        Args:
            horizon: Tokens to sample; 1 is a policy or a one-step forecast, more is a plan.
            draw: Source of noise.
            how: Schedule, steps and so on.
            like: (B, ...), gives batch, device and dtype; needed only before the first token.

        Returns:
            (B, horizon, D). Use ``repeat`` first for several futures each.
        """
        return self._sample(horizon, draw, how or Sampling(), like, keep=None)[0]

    def repeat(self, n: int) -> Stream:
        """Return a stream in which every sequence stands ``n`` times in a row."""
        return replace(self, memory=None if self.memory is None else self.memory.repeat(n))

    def rolled(
        self, horizon: int, draw: Draw, how: Sampling | None = None, *, k_small: int = 0, one_pass: bool = False,
        like: Tensor | None = None,
    ) -> tuple[Tensor, Stream]:  # fmt: skip
        """Sample the next tokens and remember them.

        Args:
            horizon: Tokens to sample.
            draw: Source of noise.
            how: Schedule, steps and so on.
            k_small: Level at which the new tokens are remembered: they are noised to it and labelled so. 0 trusts them.
            one_pass: Remember each token as it went into its last reverse step instead (costs nothing extra; the level
                is then the last rung of ``how.steps``).
            like: As in `ahead`.

        Returns:
            Clean tokens (B, horizon, D) and the extended stream.

        Raises:
            ValueError: If ``k_small`` is not in 0..K, or is given together with ``one_pass``.
        """
        K = len(self.model.alpha_bar) - 1
        _check_remembering(k_small, one_pass, K)
        if one_pass or not k_small:
            x, memory = self._sample(horizon, draw, how or Sampling(), like, "noisy" if one_pass else "clean")
            return x, replace(self, memory=memory if self.window is None else memory.last(self.window))
        x = self.ahead(horizon, draw, how, like=like)
        k = torch.full(x.shape[:2], k_small, dtype=torch.int64, device=x.device)
        return x, self.seen(add_noise(x, k, draw(x), self.model.alpha_bar), k)

    def _sample(
        self, horizon: int, draw: Draw, how: Sampling, like: Tensor | None, keep: str | None
    ) -> tuple[Tensor, Any]:
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {horizon}")
        if not how.causal and self.memory is not None:
            raise ValueError("full attention has no memory; use `roll_out`, which passes a window of tokens each time")
        batch, device, dtype = self._shape(like)
        begin = 0 if self.memory is None else self.memory.next
        D, alpha_bar = self.model.spec.width, self.model.alpha_bar
        S = make_schedule(how.schedule, horizon, len(alpha_bar) - 1, steps=how.steps, slope=how.slope)
        x = draw(torch.zeros(batch, horizon, D, device=device, dtype=dtype))
        out = sample(
            self.model, S, x, alpha_bar=alpha_bar, tokens=begin + torch.arange(horizon), order=torch.arange(horizon),
            causal=how.causal, eta=how.eta, draw=draw, memory=self.memory,
            commit=keep if how.causal and keep else "clean", keep_memory=how.causal and keep is not None,
        )  # fmt: skip
        return out.x, out.memory

    def _shape(self, like: Tensor | None) -> tuple[int, torch.device, torch.dtype]:
        if like is not None:
            return len(like), like.device, like.dtype
        if self.memory is None:
            raise ValueError("nothing has been seen yet; pass like=, a tensor with the batch size")
        state = self.memory.state if hasattr(self.memory, "state") else self.memory.layers[0][0]
        return len(state), state.device, state.dtype if state.dtype == torch.float64 else torch.float32


def _check_remembering(k_small: int, one_pass: bool, levels: int) -> None:
    if not 0 <= k_small <= levels:
        raise ValueError(f"k_small must lie in 0..{levels}, got {k_small}; about K / 20 is usual")
    if one_pass and k_small:
        raise ValueError(f"one_pass remembers the last rung, so k_small must be 0, got {k_small}")


def roll_out(
    model: Any, context: Tensor, length: int, draw: Draw, how: Sampling | None = None, *, chunk: int = 1,
    window: int | None = None, k_small: int = 0, one_pass: bool = False,
) -> Tensor:  # fmt: skip
    """Generate ``length`` tokens after a context, ``chunk`` at a time.

    With causal attention what came before is remembered; with full attention the last ``window - chunk`` tokens are
    passed again as clean (or slightly noised) context for every chunk, a sliding window.

    Args:
        model: A denoiser of a plain sequence.
        context: (B, c, D), c >= 1, clean.
        length: Tokens to generate; may exceed the training window many times.
        draw: Source of noise.
        how: Schedule, steps, attention.
        chunk: Tokens generated together.
        window: Tokens in sight; the training window if None.
        k_small: Level at which *generated* context is labelled, having been noised to it (C4).
        one_pass: See `Stream.rolled`.

    Returns:
        (B, length, D), without the context.

    Raises:
        ValueError: If a number is out of range, the context is empty or not finite, or full attention is asked for one
            pass.
    """
    how = how or Sampling()
    if context.ndim != 3 or context.shape[1] == 0:
        raise ValueError(f"context must have shape (B, c >= 1, D), got {tuple(context.shape)}")
    if not bool(torch.isfinite(context).all()):
        raise ValueError("context holds NaN or infinity; use a `Stream`, which takes missing tokens at level K")
    _check_remembering(k_small, one_pass, len(model.alpha_bar) - 1)
    if one_pass and not how.causal:
        raise ValueError("one_pass needs causal attention, full attention remembers nothing; use k_small")
    window = window if window is not None else model.spec.tokens
    if length < 1 or not 1 <= chunk < window:
        raise ValueError(f"length must be at least 1 and chunk in 1..window-1, got {length}, {chunk}, window {window}")
    if not how.causal:
        return _slide(model, context, length, draw, how, chunk, window, k_small)
    stream, parts, done = Stream(model, window=window - chunk).seen(context), [], 0
    while done < length:
        n = min(chunk, length - done)
        x, stream = stream.rolled(n, draw, how, k_small=k_small, one_pass=one_pass)
        parts.append(x)
        done += n
    return torch.cat(parts, 1)


def _slide(
    model: Any, context: Tensor, length: int, draw: Draw, how: Sampling, chunk: int, window: int, k_small: int
) -> Tensor:
    """Roll out with full attention: every chunk is denoised together with the tokens in sight."""
    alpha_bar, given = model.alpha_bar, context.shape[1]
    K, done = len(alpha_bar) - 1, context
    while done.shape[1] < given + length:
        n = min(chunk, given + length - done.shape[1])
        begin = max(0, done.shape[1] - (window - n))
        past = done[:, begin:]
        generated = torch.arange(begin, done.shape[1]) >= given
        levels = torch.where(generated, k_small, 0)
        seen = add_noise(past, levels.expand(past.shape[:2]), draw(past), alpha_bar) if k_small else past
        S = make_schedule(how.schedule, n, K, steps=how.steps, slope=how.slope)
        S = torch.cat([levels.expand(len(S), -1), S], 1)
        x = torch.cat([seen, draw(past.new_zeros(len(past), n, past.shape[2]))], 1)
        order = torch.arange(x.shape[1])
        out = sample(
            model, S, x, alpha_bar=alpha_bar, tokens=order, order=order, causal=False, eta=how.eta, draw=draw,
            finish=order >= past.shape[1],
        )  # fmt: skip
        done = torch.cat([done, out.x[:, past.shape[1] :]], 1)
    return done[:, given:]
