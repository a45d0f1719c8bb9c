"""Check what a function of the user's returns, before NaN or a wrong shape spoils a plan."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dfplan.guidance.base import Guidance


@dataclass(frozen=True)
class CheckedGuidance:
    """Call a function ``log_c(states, k)`` of your own and check its value and its gradient.

    `dfplan.planner.DFPlanner.plan` wraps every guidance in it.

    Attributes:
        function: From states (B, H+1, O) in environment units and levels k (H+1,) to log c (B,), differentiable;
            sample b depends on ``states[b]`` alone.
    """

    function: Guidance

    def __call__(self, states: Tensor, k: Tensor) -> Tensor:
        """Return log c (B,) of states (B, H+1, O).

        Raises:
            TypeError: If the function returns something that is no floating-point tensor.
            ValueError: If the shape is wrong, the value or its gradient is not finite, or the value does not depend on
                the states by operations that torch can differentiate.
        """
        own = states.view_as(states)  # a node of its own: the hook sees the gradient of this function alone
        value = self.function(own, k)
        name = _name(self.function)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"{name} must return a tensor of floating-point numbers, got {type(value).__name__}")
        if value.shape != states.shape[:1]:
            raise ValueError(
                f"{name} must return one number per sample, shape {tuple(states.shape[:1])} (B,), "
                f"got {tuple(value.shape)}; reduce over tokens and columns, not over samples"
            )
        if not bool(value.isfinite().all()):
            b = int((~value.isfinite()).nonzero()[0])
            raise ValueError(
                f"{name} returned {float(value[b].detach())} for sample {b}; "
                "clamp what you divide by or take the logarithm of"
            )
        if own.requires_grad:
            if not value.requires_grad:
                raise ValueError(
                    f"{name} does not depend on the states by operations that torch can differentiate; "
                    "compute log c from `states` with torch, without detach(), numpy() or comparisons alone"
                )
            own.register_hook(lambda gradient: _check_gradient(gradient, name))  # type: ignore[no-untyped-call]
        return value


def _name(function: Guidance) -> str:
    return f"guidance {getattr(function, '__qualname__', type(function).__qualname__)}"


def _check_gradient(gradient: Tensor | None, name: str) -> None:
    """Raise if a gradient (B, H+1, O) is not finite."""
    if gradient is not None and not bool(gradient.isfinite().all()):
        b, t, c = (int(v) for v in (~gradient.isfinite()).nonzero()[0])
        raise ValueError(
            f"{name} has the gradient {float(gradient[b, t, c])} at sample {b}, token {t}, column {c}, though its "
            "value is finite; a norm or root at 0 does that, add a small number under it"
        )
