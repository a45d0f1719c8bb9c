"""An exact head for the inverse-dynamics question: the actions that lead from one clean state to the next.

What an action chunk has to do is in the small difference between two states (of position and velocity, over a few
steps). Inside a transformer in bf16 that difference is lost in the states' own size. This head takes the two states
alone, in float32 and whitened, so that the difference is as large as the states. It answers for an action token whose
two states are both clean; whenever one of them is noisy, or not there, the transformer answers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dfplan.tokens import CONTEXT, STATE, TokenSpec


class InverseHead(nn.Module):
    """Predict a clean action chunk from the states it connects and from the noisy chunk.

    Args:
        spec: A layout with separate action tokens.
        width: Channels of the two hidden layers.

    Raises:
        ValueError: If the layout has no separate action tokens.
    """

    ends: Tensor

    def __init__(self, spec: TokenSpec, width: int) -> None:
        super().__init__()
        if not spec.chunked:
            raise ValueError(
                f"an inverse head needs separate action tokens, but {spec.kind} tokens carry their actions"
            )
        states, actions = 2 * spec.obs_dim, spec.act_columns
        self.centre = nn.Parameter(torch.zeros(states), requires_grad=False)
        self.whiten = nn.Parameter(torch.eye(states), requires_grad=False)
        self.linear = nn.Linear(states, actions)
        self.first = nn.Linear(states + actions + 2, width)
        self.second = nn.Linear(width, width)
        self.third = nn.Linear(width, actions)
        self.obs, self.act = spec.obs_slice, spec.act_slice
        self.register_buffer("ends", chunk_ends(spec), persistent=False)

    def forward(self, pair: Tensor, noisy: Tensor, alpha_bar: Tensor) -> Tensor:
        """Predict clean actions.

        Args:
            pair: (..., 2 O), the state before and the state after, normalised.
            noisy: (..., F A), the chunk at its level; 0 at level K.
            alpha_bar: (...,), of its level.

        Returns:
            (..., F A), float32.
        """
        with torch.autocast(pair.device.type, enabled=False):
            seen = (pair.float() - self.centre) @ self.whiten
            share = alpha_bar.float().unsqueeze(-1)
            features = torch.cat([seen, noisy.float(), share.sqrt(), (1 - share).sqrt()], -1)
            hidden = nn.functional.silu(self.second(nn.functional.silu(self.first(features))))
            found: Tensor = self.linear(seen) + self.third(hidden)
        return found

    @torch.no_grad()
    def whiten_by(self, pairs: Tensor) -> None:
        """Set centre and whitening from pairs of states (n, 2 O), rounded to what half precision can hold."""
        exact = pairs.double()
        centre = exact.mean(0)
        values, vectors = torch.linalg.eigh((exact - centre).T @ (exact - centre) / len(exact))
        scale = values.clamp_min(1e-6 * float(values.max().clamp_min(1e-12))).rsqrt()
        self.centre.copy_(centre.half())
        self.whiten.copy_((vectors * scale).half())

    def replace(self, x0_hat: Tensor, x: Tensor, k: Tensor, positions: Tensor, alpha_bar: Tensor) -> Tensor:
        """Put this head's answers in the place of the network's wherever both states of a chunk are clean.

        Args:
            x0_hat: (B, n, D), the network's.
            x: (B, n, D), the tokens.
            k: int64 (B, n) or (n,), their levels.
            positions: int64 (n,) or (B, n), of the tokens in the layout.
            alpha_bar: Table (K+1,).
        """
        ends = self.ends[positions]  # (..., n, 2)
        if not bool((ends[..., 0] >= 0).any()):
            return x0_hat
        here = [positions.unsqueeze(-2) == ends[..., side].unsqueeze(-1) for side in (0, 1)]  # (..., n, n)
        B, n = x.shape[:2]
        k, rows = k.expand(B, n), torch.arange(B, device=x.device)[:, None]
        index = [match.to(torch.int64).argmax(-1).expand(B, n) for match in here]
        there = [match.any(-1).expand(B, n) & (k[rows, i] == 0) for match, i in zip(here, index, strict=True)]
        handled = there[0] & there[1]
        states = x[..., self.obs]
        pair = torch.cat([states[rows, index[0]], states[rows, index[1]]], -1)
        top = (k == len(alpha_bar) - 1).unsqueeze(-1)
        noisy = torch.where(top, torch.zeros_like(x), x)[..., self.act]
        answer = self(pair, noisy, alpha_bar[k])
        out = x0_hat.clone()
        out[..., self.act] = torch.where(handled.unsqueeze(-1), answer.to(x0_hat), x0_hat[..., self.act])
        return out

    def answers_all(self, k: Tensor, positions: Tensor) -> bool:
        """Tell whether every token that is not clean is an action chunk between two clean states that are there.

        Args:
            k: int64 (n,), levels of all samples.
            positions: int64 (n,).
        """
        clean = set(positions[k == 0].tolist())
        noisy = self.ends[positions[k > 0]].tolist()
        return all(before in clean and after in clean for before, after in noisy)


def chunk_ends(spec: TokenSpec) -> Tensor:
    """List the positions of the states before and after each token, int64 (T, 2); -1 unless it is an action chunk.

    Args:
        spec: The layout.
    """
    ends = torch.full((spec.tokens, 2), -1, dtype=torch.int64)
    if spec.chunked:
        after = CONTEXT + torch.arange(spec.horizon)
        ends[spec.plan_tokens : spec.past_tokens, 0] = torch.cat([torch.tensor([STATE]), after[:-1]])
        ends[spec.plan_tokens : spec.past_tokens, 1] = after
    return ends
