"""The engine: requests of every kind ride together, and none feels it."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from app.inference.context import RequestContext
from app.inference.engine import Engine, Scores
from model.checkpoint import Checkpoint
from model.scoring.calibration import Protocol
from model.scoring.score import score_batch
from model.vae import to_tensor
from tests.conftest import CONFIGS, PROTOCOLS, reference

Load = Callable[[str], Checkpoint]
NAME = "grey-conv-gaussian"


def floats(name: str, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Inputs as codecs hand them on."""
    return to_tensor(reference(name, count, seed=7)).numpy()


@pytest.mark.parametrize("name", CONFIGS)
def test_refinements_of_other_lengths_and_seeds_share_calls_and_change_nothing(loaded: Load, name: str) -> None:
    seen: list[tuple[str, int]] = []
    found = loaded(name)
    x = floats(name, 12)
    asked = [Protocol(1 + i % 4, (0, 3, 8)[i % 3], i % 5) for i in range(12)]

    async def go() -> list[Scores]:
        engine = Engine(
            found, batch_rows=64, queue_rows=10_000, queue_seconds=60, observe=lambda *call: seen.append(call[:2])
        )
        engine.start()
        try:
            tasks = [
                engine.free_energy(x[i : i + 1], samples, seed, RequestContext(), steps=steps)
                for i, (samples, steps, seed) in enumerate(asked)
            ]
            return await asyncio.gather(*tasks)
        finally:
            engine.stop(5)

    together = asyncio.run(go())
    assert max(rows for call, rows in seen if call == "descend") > 1
    for i, protocol in enumerate(asked):
        alone = score_batch(found.vae, to_tensor(x[i : i + 1]), protocol)[0]
        free_energy = alone.scores.free_energy
        np.testing.assert_allclose(together[i].scores.free_energy, free_energy, rtol=1e-4)
        found_regret = together[i].regret
        assert (found_regret is None) == (alone.regret is None) == (protocol.refine == 0)
        if found_regret is not None and alone.regret is not None:
            np.testing.assert_allclose(found_regret, alone.regret, rtol=0, atol=1e-4 * abs(free_energy[0]))


def test_a_refinement_larger_than_a_batch_is_cut_and_put_together_again(loaded: Load) -> None:
    found, x, largest = loaded(NAME), floats(NAME, 23), 0

    def observe(call: str, rows: int, seconds: float) -> None:
        nonlocal largest
        largest = max(largest, rows)

    async def go() -> Scores:
        engine = Engine(found, batch_rows=5, queue_rows=1000, queue_seconds=60, observe=observe)
        engine.start()
        try:
            return await engine.free_energy(x, 3, 2, RequestContext(), steps=6, per_dimension=True)
        finally:
            engine.stop(5)

    result = asyncio.run(go())
    expected, _ = score_batch(found.vae, to_tensor(x), Protocol(3, 6, 2))
    assert largest == 5
    np.testing.assert_allclose(result.scores.free_energy, expected.scores.free_energy, rtol=1e-4)
    np.testing.assert_allclose(result.scores.rate_analytic, expected.scores.rate_analytic, rtol=1e-4)
    assert result.per_dimension is not None
    np.testing.assert_allclose(result.per_dimension.reshape(23, -1).sum(1), result.scores.distortion, rtol=1e-5)


def test_the_model_keeps_no_gradients_of_a_refinement(loaded: Load) -> None:
    found = loaded(NAME)

    async def go() -> None:
        engine = Engine(found, batch_rows=64, queue_rows=1000, queue_seconds=60, observe=lambda *_: None)
        engine.start()
        try:
            await engine.free_energy(floats(NAME, 2), 2, 0, RequestContext(), steps=3)
        finally:
            engine.stop(5)

    asyncio.run(go())
    assert all(weight.grad is None and not weight.requires_grad for weight in found.vae.parameters())


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=str)
def test_verdicts_are_the_same_in_a_crowd(calibrated: Load, protocol: Protocol) -> None:
    found = calibrated("table-mlp-gaussian")
    assert found.calibration is not None
    x = floats("table-mlp-gaussian", 30)
    expected = found.calibration.judge(protocol, score_batch(found.vae, to_tensor(x), protocol)[0])
    assert expected.p_values is not None

    async def go() -> list[Scores]:
        engine = Engine(found, batch_rows=16, queue_rows=10_000, queue_seconds=60, observe=lambda *_: None)
        engine.start()
        samples, steps, seed = protocol
        try:
            tasks = [
                engine.free_energy(x[i : i + 3], samples, seed, RequestContext(), steps=steps) for i in range(0, 30, 3)
            ]
            return await asyncio.gather(*tasks)
        finally:
            engine.stop(5)

    verdicts = [result.verdict for result in asyncio.run(go())]
    for key, p in expected.p_values.items():
        np.testing.assert_array_equal(np.concatenate([v.p_values[key] for v in verdicts if v.p_values]), p, err_msg=key)


@pytest.mark.parametrize(("seconds", "rows"), [(1e-6, 256), (1e-2, 64), (1.0, 64)])
def test_a_call_has_as_many_rows_as_the_model_is_fast(
    seconds: float, rows: int, loaded: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.inference.engine._timed", lambda *_: seconds)
    engine = Engine(
        loaded("table-mlp-gaussian"), batch_rows=None, queue_rows=10, queue_seconds=60, observe=lambda *_: None
    )
    assert engine.batcher.batch_rows == rows


@pytest.mark.parametrize("error", [MemoryError, ArithmeticError])
def test_a_model_whose_calls_fail_at_the_measurement_has_calls_of_few_rows(
    error: type[Exception], loaded: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> float:
        raise error

    monkeypatch.setattr("app.inference.engine._timed", fails)
    engine = Engine(
        loaded("table-mlp-gaussian"), batch_rows=None, queue_rows=10, queue_seconds=60, observe=lambda *_: None
    )
    assert engine.batcher.batch_rows == 64
