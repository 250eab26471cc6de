"""Score programs: requested calls, and results under every driver."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from model.checkpoint import Checkpoint
from model.scoring import program
from model.scoring.calibration import Calibration, ScoringConfig
from model.scoring.functions import Arrays, Call, discrete_dims, torch_calls
from model.scoring.program import ModelCall, Posterior, call, run
from model.vae import to_tensor
from tests.support.models import CONFIGS, SCORINGS, build, reference


def counting(functions: dict[str, Call]) -> tuple[dict[str, Call], dict[str, list[int]]]:
    """The functions, and the rows of each call that they get."""
    rows: dict[str, list[int]] = {}

    def counted(name: str, function: Call) -> Call:
        def counts(*arrays: np.ndarray[Any, Any]) -> Arrays:
            rows.setdefault(name, []).append(len(arrays[0]))
            return function(*arrays)

        return counts

    return {name: counted(name, function) for name, function in functions.items()}, rows


@pytest.mark.parametrize(("samples", "draws", "rows"), [(1, 1, 1), (5, 3, 4), (2, 7, 100), (7, 2, 1)])
def test_an_estimate_asks_for_every_pair_once_in_order(samples: int, draws: int, rows: int) -> None:
    index = np.arange(samples, dtype=np.float64)[:, None]
    q = Posterior(index, index + 1, np.zeros(samples))
    pairs: list[tuple[int, int]] = []

    def score(x: Any, mean: Any, scale: Any, noise: Any) -> Arrays:
        assert 0 < len(x) <= rows
        assert np.array_equal(x, mean) and np.array_equal(scale, mean + 1)
        pairs.extend(zip(x[:, 0].astype(int).tolist(), noise[:, 0].astype(int).tolist(), strict=True))
        return x[:, 0], np.zeros(len(x)), np.zeros(len(x))

    steps = program.estimate(index, q, np.arange(draws, dtype=np.float64)[:, None], None)
    estimates, *others = run(steps, {"score": score}, rows)
    assert pairs == [(i, k) for i in range(samples) for k in range(draws)]
    assert np.allclose(estimates.free_energy, index[:, 0])
    assert others == [None, None]


@pytest.mark.parametrize("rows", [1, 3, 256])
@pytest.mark.parametrize("name", CONFIGS)
def test_scores_do_not_depend_on_the_rows_of_a_call(name: str, rows: int) -> None:
    vae, x = build(name), to_tensor(reference(name, 7)).numpy()
    functions, calls = counting(torch_calls(vae))
    scoring = ScoringConfig(3, 2, 0)
    expected, scores = (
        run(program.score(x, scoring, discrete_dims=discrete_dims(vae), per_dimension=True), functions, limit)
        for limit in (64, rows)
    )
    assert {max(sizes) for sizes in calls.values()} <= {7, 21}
    np.testing.assert_allclose(scores.estimates.free_energy, expected.estimates.free_energy, rtol=1e-5)
    assert scores.per_dimension is not None
    assert scores.per_dimension.shape == x.shape and scores.per_dimension.dtype == np.float32
    np.testing.assert_allclose(
        scores.per_dimension.reshape(7, -1).sum(1), scores.estimates.distortion, rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("per_dimension", [False, True])
@pytest.mark.parametrize("refine", [0, 4])
def test_a_plan_names_every_call_of_a_score(
    calibrated: Callable[[str], Checkpoint], refine: int, per_dimension: bool
) -> None:
    checkpoint = calibrated("table-mlp-gaussian")
    functions, calls = counting(torch_calls(checkpoint.vae, checkpoint.calibration))
    for scoring in (ScoringConfig(6, refine, 0), *SCORINGS):
        calls.clear()
        calibration = checkpoint.calibration
        x = to_tensor(reference("table-mlp-gaussian", 5)).numpy()
        scores = program.score(x, scoring, discrete_dims=None, calibration=calibration, per_dimension=per_dimension)
        run(scores, functions)
        planned = Counter[str]()
        for function, rows, times in program.plan(5, scoring, calibration=calibration, per_dimension=per_dimension):
            planned[function] += rows * times
        assert planned == {name: sum(sizes) for name, sizes in calls.items()}


def test_rows_on_demand_are_made_when_their_slice_is_computed() -> None:
    events: list[tuple[str, int, int]] = []

    def take(start: int, stop: int) -> Arrays:
        events.append(("take", start, stop))
        return (np.arange(start, stop),)

    def put(start: int, stop: int, outputs: Arrays) -> None:
        assert outputs[0].tolist() == list(range(start, stop))
        events.append(("put", start, stop))

    def steps() -> program.Program[None]:
        yield ModelCall("same", 5, take, put)

    run(steps(), {"same": lambda x: (x,)}, rows=2)
    assert events == [(event, *rows) for rows in ((0, 2), (2, 4), (4, 5)) for event in ("take", "put")]


def test_arrays_that_fit_into_one_call_are_not_copied() -> None:
    given = np.arange(4.0)
    seen: list[np.ndarray[Any, Any]] = []

    def same(x: np.ndarray[Any, Any]) -> Arrays:
        seen.append(x)
        return (x,)

    assert run(call("same", given), {"same": same}, rows=4)[0] is given
    assert seen[0] is given


def test_a_failing_function_fails_the_program() -> None:
    def fails(*_: Any) -> Arrays:
        raise ArithmeticError("not finite")

    with pytest.raises(ArithmeticError, match="not finite"):
        run(program.score(np.zeros((2, 3)), ScoringConfig(1, 0, 0), discrete_dims=None), {"posterior": fails})


def test_without_a_reference_no_typicality_is_asked_for() -> None:
    vae, x = build("table-mlp-gaussian"), to_tensor(reference("table-mlp-gaussian", 2)).numpy()
    functions, calls = counting(torch_calls(vae))
    steps = program.score(x, ScoringConfig(1, 0, 0), discrete_dims=None, calibration=Calibration(None, {}))
    scores = run(steps, functions)
    assert set(calls) == {"posterior", "score"}
    assert scores.calibrated.reason == "the model is calibrated for nothing, not for (samples=1, refine=0, seed=0)"
