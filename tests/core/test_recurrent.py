"""The recurrent denoiser: its latent (T5), who sees whom (T4), teacher forcing, training, planning, command line."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import dfplan.training
from dfplan.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, tensor_digest
from dfplan.layout import SequenceSpec
from dfplan.models import Cond, RecurrentConfig, TransformerConfig, make_config, make_denoiser, remember
from dfplan.noise import to_x0
from dfplan.objective import ObjectiveConfig
from dfplan.planner import DFPlanner
from dfplan.sequence import SequenceTraining, train_sequences
from dfplan.training import TrainConfig, train
from dfplan.training_state import STATE
from tests.core.tiny import fitted, random_network, small_spec, some_norm, walks

F64 = torch.float64
K = 20
SPECS: dict[str, Any] = {
    "path": small_spec(horizon=3), "bundle": small_spec(horizon=3, kind="bundle"),
    "interleaved": small_spec(horizon=2, kind="interleaved", history=1), "plain": SequenceSpec(3, 6),
}  # fmt: skip
SIZE = RecurrentConfig(width=12, levels=K)
MODELS = {name: random_network(spec, SIZE).double() for name, spec in SPECS.items()}
kinds = pytest.mark.parametrize("kind", sorted(SPECS))


def inputs(spec: Any, B: int = 2, seed: int = 0, high: int = K - 1) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(B, spec.tokens, spec.width, dtype=F64, generator=g) * spec.column_mask()
    return x, torch.randint(1, high + 1, (B, spec.tokens), generator=g)


def before(spec: Any) -> Tensor:
    """Build bool (T, T): may the token in the row depend on the one in the column? The state comes before the goal."""
    allowed = spec.attention(True).clone()
    if not isinstance(spec, SequenceSpec) and spec.kind != "interleaved":
        allowed[0, 1] = False
    return allowed


# ---- who sees whom


@kinds
@pytest.mark.parametrize("noisy", [(), (2,), (0, 3), (1, 2, 4)])
def test_jacobian_is_the_layouts_causal_attention(kind: str, noisy: tuple[int, ...]) -> None:
    # T4. Catches: a latent taken one place too early or too late, an action that the chain sees, pure noise that tells
    # something, a token that is blind.
    spec, model = SPECS[kind], MODELS[kind]
    x, k = inputs(spec, 1)
    k[:, list(noisy)] = K
    J: Any = torch.autograd.functional.jacobian(lambda v: model(v[None], k, Cond())[0], x[0], vectorize=True)
    found = J.abs().amax((1, 3)) > 0
    expected = before(spec) & (k[0] < K)
    assert torch.equal(found, expected)


@kinds
def test_levels_reach_exactly_the_same_tokens(kind: str) -> None:
    # Catches: one level for all; the level of a later token in the latent of an earlier one.
    spec, model = SPECS[kind], MODELS[kind]
    x, k = inputs(spec, 1)
    base = model.network(x, k, Cond())
    for t in range(spec.tokens):
        levels = k.clone()
        levels[:, t] = (levels[:, t] + 7) % K
        changed = (model.network(x, levels, Cond()) != base).any(-1)[0]
        assert torch.equal(changed, before(spec)[:, t])


def test_a_sample_does_not_know_the_batch() -> None:
    # Design 15. Catches: one sample's tokens used for all, a latent that runs on from sample to sample.
    spec, model = SPECS["path"], MODELS["path"]
    x, k = inputs(spec, 5, high=K)
    g = torch.Generator().manual_seed(0)
    tokens = torch.stack([torch.cat([torch.arange(5), 5 + torch.randperm(3, generator=g)[:2]]) for _ in range(5)])
    rows = torch.arange(5)[:, None]
    part = model(x[rows, tokens], k[rows, tokens], Cond(tokens=tokens))
    whole = model(x, k, Cond())
    torch.testing.assert_close(part, whole[rows, tokens], rtol=1e-12, atol=1e-12)
    for b in range(5):
        torch.testing.assert_close(whole[b : b + 1], model(x[b : b + 1], k[b : b + 1], Cond()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prediction", ["v", "x0", "eps"])
def test_the_head_is_converted_at_the_edge(prediction: str) -> None:
    # T3. Catches: a head read as another kind; columns that a token does not use, read or written.
    spec = SPECS["path"]
    model = random_network(spec, replace(SIZE, prediction=prediction)).double()
    x, k = inputs(spec)
    raw = model.network(x, k, Cond())
    found = model(x, k, Cond())
    torch.testing.assert_close(found, to_x0(prediction, raw, x, k, model.alpha_bar) * spec.column_mask())
    advanced, _ = model.advance(x, k, Cond(), 0)
    assert torch.equal(advanced, found) and bool((found[:, ~spec.column_mask()] == 0).all())
    dirty = torch.where(spec.column_mask(), x, torch.full_like(x, 9.0))
    assert torch.equal(model.network(dirty, k, Cond()), raw)


def test_precision_follows_the_input_and_bf16_works() -> None:
    # Catches: a state stuck in float32, a bf16 result handed out, a memory that does not fit under autocast.
    spec, model = SPECS["path"], random_network(SPECS["path"], SIZE)
    x, k = inputs(spec)
    single = model(x.float(), k, Cond()).detach()
    torch.testing.assert_close(single.double(), MODELS["path"](x, k, Cond()).detach(), rtol=1e-3, atol=1e-3)
    tokens = torch.arange(5)
    with torch.autocast("cpu", torch.bfloat16):
        whole = model(x.float(), k, Cond())
        memory = remember(model, x[:, :3].float(), k[:, :3], Cond(tokens=tokens[:3]))
        part = model(x[:, 3:5].float(), k[:, 3:5], Cond(tokens=tokens[3:], memory=memory))
    assert whole.dtype == part.dtype == torch.float32
    assert torch.allclose(part, whole[:, 3:5], atol=0.05) and torch.allclose(whole, single, atol=0.3)


def test_gradients_against_finite_differences() -> None:
    # Catches: a detached latent, through which a future cost would not reach earlier tokens (G2).
    spec, model = SPECS["plain"], MODELS["plain"]
    x, k = inputs(spec, 1)
    part = x[:, :3].clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda v: model.network(v, k[:, :3], Cond()), part)


def test_bad_calls_are_refused() -> None:
    spec, model = SPECS["path"], MODELS["path"]
    x, k = inputs(spec)
    with pytest.raises(ValueError, match="the recurrent denoiser is causal; use attention='causal', or the transf"):
        model(x, k, Cond(False))
    with pytest.raises(ValueError, match=r"x holds 7 tokens but cond\.tokens names 8; name each token present"):
        model(x[:, 1:], k[:, 1:], Cond())
    with pytest.raises(ValueError, match=r"k must have shape \(2, 8\) \(B, T\), got \(8,\); pass one level per token"):
        model(x, k[0], Cond())
    with pytest.raises(ValueError, match=r"k must lie in 0\.\.20, got 0\.\.21"):
        model(x, torch.tensor([0, 21]).repeat(4).expand(2, 8), Cond())
    with pytest.raises(ValueError, match="width must be a positive integer, got 0"):
        RecurrentConfig(width=0)
    with pytest.raises(ValueError, match=r"unknown kind of denoiser 'recurent'\. Did you mean 'recurrent'"):
        make_config("recurent")


# ---- T5: prior and posterior


def latent(model: Any, x: Tensor, k: Tensor | int, memory: Any) -> Tensor:
    state: Tensor = remember(model, x, torch.as_tensor(k).expand(x.shape[:2]), Cond(memory=memory)).state
    return state


def test_the_latent_is_the_prior_at_pure_noise_and_the_posterior_when_clean() -> None:
    # T5. Catches: content that goes in at level K, a latent that ignores the token, time that stands still at level K.
    model = MODELS["plain"]
    x, k = inputs(SPECS["plain"])
    memory = remember(model, x[:, :2], k[:, :2], Cond())
    one, two = x[:, 2:3], 100 * x[:, 3:4]
    assert torch.equal(latent(model, one, K, memory), latent(model, two, K, memory))
    assert not torch.equal(latent(model, one, 0, memory), latent(model, two, 0, memory))
    assert not torch.equal(latent(model, one, 0, memory), latent(model, one, K, memory))
    assert not torch.equal(latent(model, one, K, memory), memory.state)
    other = remember(model, x[:, 3:5], k[:, 3:5], Cond())
    assert not torch.equal(latent(model, one, K, memory), latent(model, one, K, other))  # the prior keeps the past


@pytest.fixture(scope="module")
def trained() -> Any:
    """Train on ``x' = 0.9 x + w`` for a moment."""
    g = torch.Generator().manual_seed(0)
    rows = [torch.randn(256, generator=g)]
    for _ in range(11):
        rows.append(0.9 * rows[-1] + 0.19**0.5 * torch.randn(256, generator=g))
    data, spec = torch.stack(rows, 1).unsqueeze(-1), SequenceSpec(1, 6)
    config = SequenceTraining(steps=150, batch=64, lr=2e-2, ema=0.95)
    return train_sequences(data, spec, RecurrentConfig(width=24, levels=K), config)


def test_the_noisier_a_token_the_less_the_latent_takes_from_it(trained: Any) -> None:
    # T5. Catches: levels that the latent cannot read, so that a noisy token is trusted like a clean one. The exact
    # forecast from one token of a unit-variance chain has the slope 0.9 sqrt(abar).
    slopes = []
    for level in (0, 5, 10, 15, 19, K):
        x = torch.tensor([-1.0, 1.0])[:, None, None].repeat(1, 2, 1)
        found = trained(x, torch.tensor([[level, K]]).expand(2, 2), Cond())[:, 1, 0].detach()
        slopes.append(float(found[1] - found[0]) / 2)
    assert slopes[-1] == 0 and all(a > b for a, b in pairwise(slopes))
    for level, slope in zip((0, 5, 10), slopes, strict=False):
        assert abs(slope - 0.9 * float(trained.alpha_bar[level].sqrt())) < 0.25, level


# ---- teacher forcing


@pytest.mark.parametrize("network", [SIZE, TransformerConfig(width=16, layers=2, heads=2, levels=K)])
@kinds
def test_teacher_forcing_is_the_causal_pass_with_a_clean_past(network: Any, kind: str) -> None:
    # Catches: a noisy token that sees other noisy ones, or the clean version of itself (directly, or through another
    # token that has seen it: the answer would be in the input), or lacks its past.
    spec = SPECS[kind]
    if kind == "plain" and isinstance(network, TransformerConfig):
        network = replace(network, positions="rotary")
    model = random_network(spec, network).double()
    x, k = inputs(spec)
    clean, tokens = inputs(spec, seed=1)[0], torch.arange(spec.tokens)
    clean_k = torch.zeros_like(k)
    clean_k[0, 1] = K  # padding, or an unknown goal
    found = model.forced(x, k, clean, clean_k, Cond(tokens=tokens))
    rule = before(spec) if isinstance(network, RecurrentConfig) else spec.attention(True)
    for t in range(spec.tokens):
        past = tokens[rule[t] & ~rule[:, t]]
        both = torch.cat([past, tokens[t : t + 1]])
        values = torch.cat([clean[:, past], x[:, t : t + 1]], 1)
        levels = torch.cat([clean_k[:, past], k[:, t : t + 1]], 1)
        alone = model.network(values, levels, Cond(tokens=both))[:, -1]
        torch.testing.assert_close(found[:, t], alone, rtol=1e-11, atol=1e-11)


# ---- checkpoints, training, planning


def test_checkpoint_keeps_kind_and_weights(tmp_path: Path) -> None:
    # Catches: a transformer built from a recurrent checkpoint, buffers among the weights.
    spec = SPECS["path"]
    model = random_network(spec, SIZE)
    folder = save_checkpoint(Checkpoint("r", "", model, spec, some_norm(spec)), tmp_path / "r", half=False)
    loaded = load_checkpoint(folder).model
    assert loaded.config == SIZE and type(loaded) is type(model)
    x, k = inputs(spec)
    assert torch.equal(loaded(x.float(), k, Cond()), model(x.float(), k, Cond()))


SPEC, DATA = small_spec(), walks(20)
CONFIG = TrainConfig(
    steps=8, batch=8, lr=1e-2, warmup=3, precision="fp32", save_every=4, validate_every=4, holdout=0.1, ema=0.9,
    causal=1.0, model=RecurrentConfig(width=16, levels=K),
)  # fmt: skip


class Killed(Exception):
    """Stands for a kill."""


def run(folder: Path, stop: int = 0, **changes: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def log(row: dict[str, Any]) -> None:
        rows.append(row)
        if row["step"] == stop:
            raise Killed

    train(DATA, SPEC, fitted(SPEC, DATA), replace(CONFIG, **changes), folder, name="toy", log=log)
    return rows


TINY = TransformerConfig(width=16, layers=1, heads=2, levels=K)


@pytest.mark.parametrize(
    ("levels", "model"),
    [("mixed", CONFIG.model), ("teacher_forcing", CONFIG.model), ("teacher_forcing", TINY), ("shared", TINY)],
)
def test_baselines_train_and_resume_to_the_bit(levels: str, model: Any, tmp_path: Path) -> None:
    # T8. Catches: a kind or a level law that is lost on resume, a baseline that is trained as another one.
    options = {"model": model, "objective": ObjectiveConfig(levels=levels)}
    run(tmp_path / "whole", **options)
    with pytest.raises(Killed):
        run(tmp_path / "parts", stop=6, **options)
    run(tmp_path / "parts", **options)
    one, two = (load_file(tmp_path / part / "state" / STATE) for part in ("whole", "parts"))
    assert tensor_digest(one) == tensor_digest(two)
    run(tmp_path / "other", **{**options, "objective": ObjectiveConfig(levels="independent")})
    assert tensor_digest(load_file(tmp_path / "other" / "state" / STATE)) != tensor_digest(one)
    assert load_checkpoint(tmp_path / "whole" / "checkpoint").model.config == model
    swapped = TINY if model is CONFIG.model else CONFIG.model
    with pytest.raises(ValueError, match="another configuration"):
        run(tmp_path / "whole", **{**options, "model": swapped})


def test_a_recurrent_run_learns(tmp_path: Path) -> None:
    # Catches: a chain without a gradient.
    rows = run(tmp_path, steps=120, batch=32, warmup=10, save_every=120, validate_every=120, lr=2e-2)
    assert sum(r["loss"] for r in rows[-10:]) < 0.8 * 2 * sum(r["loss"] for r in rows[:5])
    assert "heldout_future_causal" in rows[-1] and "heldout_future_full" not in rows[-1]


@pytest.mark.parametrize("change", [{}, {"model": TINY, "objective": ObjectiveConfig(levels="teacher_forcing")}])
def test_causal_methods_refuse_full_attention(change: dict[str, Any]) -> None:
    # Catches: full batches in which teacher forcing would be causal, or the recurrent model fail at some later step.
    with pytest.raises(ValueError, match=r"a recurrent model and teacher forcing are causal; use causal=1, got 0\.7"):
        replace(CONFIG, causal=0.7, **change)


@pytest.mark.parametrize("kind", ["path", "bundle"])
def test_planner_plans_with_it_and_names_what_it_cannot(kind: str) -> None:
    # Catches: a planner that needs the transformer; full attention that is silently causal.
    spec = SPECS[kind]
    options = {"precision": "fp32", "samples": 3, "steps": 5}
    planner = DFPlanner(Checkpoint("r", "", random_network(spec, SIZE), spec, some_norm(spec), options))
    obs, goal = torch.zeros(2, 4), torch.ones(2, 2)
    plan = planner.plan(obs, goal, actions=True, generator=torch.Generator().manual_seed(0))
    again = planner.plan(obs, goal, actions=True, generator=torch.Generator().manual_seed(0))
    assert plan.observations.shape == (2, 4, 4) and plan.actions is not None and plan.actions.shape == (2, 9, 2)
    assert torch.equal(plan.observations, again.observations) and bool(torch.isfinite(plan.observations).all())
    with pytest.raises(ValueError, match="the recurrent denoiser is causal; use attention='causal', or the transf"):
        planner.plan(obs, goal, attention="full")


@pytest.fixture
def configurations(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """Catch what the command line would train, and stop there."""
    seen: list[TrainConfig] = []

    def instead(episodes: Any, spec: Any, norm: Any, config: TrainConfig, *rest: Any, **options: Any) -> Path:
        seen.append(config)
        return Path()

    monkeypatch.setattr(dfplan.training, "train", instead)
    monkeypatch.setattr("dfplan.cli.train_data.load_data", lambda *_: (DATA, {}))
    return seen


def test_the_command_line_trains_either_network(
    configurations: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    # Catches: options of the transformer given to the other, a causal model trained with a share of full attention.
    from dfplan.cli import main

    def call(*arguments: str) -> int:
        monkeypatch.setattr(
            "sys.argv", ["dfplan", "train", "--env", "maze2d-umaze", "--out", str(tmp_path), *arguments]
        )
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    assert call("--model", "recurrent", "--width", "24") == 0
    assert configurations[-1].model == RecurrentConfig(width=24) and configurations[-1].causal == 1.0
    assert call("--levels", "teacher_forcing", "--width", "24", "--heads", "2") == 0
    assert (
        configurations[-1].model == TransformerConfig(width=24, heads=2, inverse=256)
        and configurations[-1].causal == 1.0
    )
    assert configurations[-1].objective.levels == "teacher_forcing"
    assert call() == 0 and configurations[-1].causal == 0.7
    capsys.readouterr()
    assert call("--model", "recurent") != 0
    assert "unknown kind of denoiser 'recurent'. Did you mean 'recurrent'?" in capsys.readouterr().err
    assert call("--model", "recurrent", "--causal", "0.5") != 0
    assert "a recurrent model and teacher forcing are causal; use causal=1, got 0.5" in capsys.readouterr().err


def test_an_untrained_network_outputs_zero_and_still_learns() -> None:
    # Catches: a start far from zero; a head whose zeros stop every gradient for good.
    spec = SPECS["path"]
    torch.manual_seed(0)
    model = make_denoiser(spec, SIZE)
    x, k = inputs(spec)
    x = x.float()
    assert torch.equal(model.network(x, k, Cond()), torch.zeros_like(x))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        ((model.network(x, k, Cond()) - 1) ** 2).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert [n for n, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())] == []
