"""The engine: requests of all kinds share calls of the model, and their results do not depend on each other."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import numpy as np
import pytest

from app.inference.admission import QueueLimits
from app.inference.context import RequestContext
from app.inference.costs import Plan
from app.inference.engine import BATCH_ROWS, Engine, choose_batch_rows
from app.inference.functions import ModelFunctions
from model.checkpoint import Checkpoint
from model.scoring.batches import score_batch
from model.scoring.calibration import ScoringConfig
from model.scoring.program import Scores
from model.vae import to_tensor
from tests.support.models import CONFIGS, SCORINGS, reference

Load = Callable[[str], Checkpoint]
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Result = TypeVar("Result")
NAME = "grey-conv-gaussian"


def floats(name: str, count: int) -> Floats:
    """Inputs as codecs return them."""
    return to_tensor(reference(name, count, seed=7)).numpy()


def serve(
    checkpoint: Checkpoint, requests: Callable[[Engine], Awaitable[Result]], batch_rows: int | None = 64
) -> tuple[Result, list[tuple[str, int]]]:
    """Run requests by an engine. Returns their result, and the name and rows of each call of the model."""
    calls: list[tuple[str, int]] = []

    async def run() -> Result:
        engine = Engine(
            checkpoint,
            batch_rows=batch_rows,
            limits=QueueLimits(10_000, 60),
            observe=lambda name, rows, _: calls.append((name, rows)),
        )
        engine.start()
        try:
            return await requests(engine)
        finally:
            engine.stop(5)

    return asyncio.run(run()), calls


@pytest.mark.parametrize("name", CONFIGS)
def test_refinements_of_any_length_and_seed_share_calls(loaded: Load, name: str) -> None:
    checkpoint, x = loaded(name), floats(name, 12)
    scorings = [ScoringConfig(1 + i % 4, (0, 3, 8)[i % 3], i % 5) for i in range(12)]

    async def requests(engine: Engine) -> list[Scores]:
        tasks = [engine.free_energy(x[i : i + 1], scoring, RequestContext()) for i, scoring in enumerate(scorings)]
        return await asyncio.gather(*tasks)

    together, calls = serve(checkpoint, requests)
    assert max(rows for call, rows in calls if call == "descend") > 1
    for i, scoring in enumerate(scorings):
        alone = score_batch(checkpoint.vae, to_tensor(x[i : i + 1]), scoring)
        free_energy = alone.estimates.free_energy
        np.testing.assert_allclose(together[i].estimates.free_energy, free_energy, rtol=1e-4)
        regret = together[i].regret
        assert (regret is None) == (alone.regret is None) == (scoring.refine == 0)
        if regret is not None and alone.regret is not None:
            np.testing.assert_allclose(regret, alone.regret, rtol=0, atol=1e-4 * abs(free_energy[0]))


def test_a_refinement_larger_than_a_batch_is_split_and_merged(loaded: Load) -> None:
    checkpoint, x = loaded(NAME), floats(NAME, 23)
    result, calls = serve(
        checkpoint,
        lambda engine: engine.free_energy(x, ScoringConfig(3, 6, 2), RequestContext(), per_dimension=True),
        batch_rows=5,
    )
    expected = score_batch(checkpoint.vae, to_tensor(x), ScoringConfig(3, 6, 2)).estimates
    assert max(rows for _, rows in calls) == 5
    np.testing.assert_allclose(result.estimates.free_energy, expected.free_energy, rtol=1e-4)
    assert result.estimates.rate_analytic is not None and expected.rate_analytic is not None
    np.testing.assert_allclose(result.estimates.rate_analytic, expected.rate_analytic, rtol=1e-4)
    assert result.per_dimension is not None
    np.testing.assert_allclose(result.per_dimension.reshape(23, -1).sum(1), result.estimates.distortion, rtol=1e-5)


def test_a_refinement_leaves_no_gradients_in_the_model(loaded: Load) -> None:
    checkpoint = loaded(NAME)
    serve(checkpoint, lambda engine: engine.free_energy(floats(NAME, 2), ScoringConfig(2, 3, 0), RequestContext()))
    assert all(weight.grad is None and not weight.requires_grad for weight in checkpoint.vae.parameters())


@pytest.mark.parametrize("scoring", SCORINGS, ids=str)
def test_p_values_do_not_depend_on_concurrent_requests(calibrated: Load, scoring: ScoringConfig) -> None:
    checkpoint, x = calibrated("table-mlp-gaussian"), floats("table-mlp-gaussian", 30)
    expected = score_batch(checkpoint.vae, to_tensor(x), scoring, checkpoint.calibration).calibrated
    assert expected.p_values is not None

    async def requests(engine: Engine) -> list[Scores]:
        tasks = [engine.free_energy(x[i : i + 3], scoring, RequestContext()) for i in range(0, 30, 3)]
        return await asyncio.gather(*tasks)

    calibrated_scores = [scores.calibrated for scores in serve(checkpoint, requests, batch_rows=16)[0]]
    for key, p in expected.p_values.items():
        p_values = np.concatenate([scores.p_values[key] for scores in calibrated_scores if scores.p_values])
        np.testing.assert_array_equal(p_values, p, err_msg=key)


@pytest.mark.parametrize(("seconds", "rows"), [(1e-6, 256), (1.4e-3, 128), (1e-2, 64), (1.0, 64)])
def test_faster_models_get_larger_batches(
    seconds: float, rows: int, loaded: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_batch_rows(seconds) == rows
    monkeypatch.setattr(ModelFunctions, "seconds", lambda *_: seconds)
    x = floats("table-mlp-gaussian", 300)
    _, calls = serve(loaded("table-mlp-gaussian"), lambda engine: engine.encode(x, RequestContext()), batch_rows=None)
    assert max(size for _, size in calls) == rows


@pytest.mark.parametrize("error", [MemoryError, ArithmeticError])
def test_a_model_that_fails_while_it_is_timed_gets_the_smallest_batches(
    error: type[Exception], loaded: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: object, _calls: object, _name: str, rows: int) -> float:
        if rows > 1:
            raise error
        return 1e-5

    monkeypatch.setattr(ModelFunctions, "seconds", fail)
    x = floats("table-mlp-gaussian", 100)
    _, calls = serve(loaded("table-mlp-gaussian"), lambda engine: engine.encode(x, RequestContext()), batch_rows=None)
    assert max(size for _, size in calls) == BATCH_ROWS[0]


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("grey-conv-flow", ["place", "to_latent", "draw"]),
        ("table-mlp-flow", ["to_latent", "draw"]),
        ("table-mlp-gaussian", ["draw"]),
    ],
)
def test_a_sample_is_admitted_with_all_of_its_calls(name: str, calls: list[str], loaded: Load) -> None:
    plans: list[Plan] = []

    async def sample(engine: Engine) -> None:
        plans.append(engine.sample_plan(30, noisy=True))
        await engine.sample(30, 0, 1.0, RequestContext(), noisy=True, label=None)

    _, made = serve(loaded(name), sample, batch_rows=30)
    assert [(call, rows) for call, rows, _ in plans[0]] == [(call, 30) for call in calls]
    assert made == [(call, 30) for call in calls]
