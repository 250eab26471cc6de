"""`/free-energy?refine=S` over HTTP: Q fitted to each input before it is scored."""

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.inference import batcher
from model.checkpoint import Checkpoint
from model.scoring.batches import score_batch
from model.scoring.calibration import ScoringConfig
from tests.support.models import build
from tests.support.requests import GREY, IMAGES, Serving, close, every, inputs, inside, npy, npz, over_asgi, scores
from tests.support.services import Client, Transport, client_of, state_of

TERMS = ("free_energy", "distortion", "cross_entropy", "entropy", "rate", "nlog_p_x")


@every
def test_refined_scores_equal_those_of_the_library(serving: Serving, name: str) -> None:
    x = inputs(name, 7)
    expected = score_batch(build(name), inside(name, x), ScoringConfig(6, 8, 3))
    answer = scores(serving(name), x, "samples=6&refine=8&seed=3")
    assert (answer["samples"], answer["refine"], answer["seed"]) == (6, 8, 3)
    for key in TERMS:
        np.testing.assert_allclose(answer[key], getattr(expected.estimates, key), rtol=1e-4, atol=1e-3, err_msg=key)
    if expected.estimates.rate_analytic is not None:
        np.testing.assert_allclose(answer["rate_analytic"], expected.estimates.rate_analytic, rtol=1e-4, atol=1e-3)
    assert expected.regret is not None
    np.testing.assert_allclose(
        answer["regret"], expected.regret, rtol=1e-4, atol=1e-4 * expected.estimates.free_energy.max()
    )


@over_asgi
@every
def test_regret_is_the_gain_of_refinement_on_equal_draws(serving: Serving, name: str) -> None:
    x = inputs(name, 12)
    before = scores(serving(name), x, "samples=8&seed=1")
    after = scores(serving(name), x, "samples=8&seed=1&refine=12")
    assert before["regret"] is None
    assert before["refine"] == 0
    np.testing.assert_allclose(after["regret"], before["free_energy"] - after["free_energy"], rtol=1e-5, atol=1e-3)
    # The draws that score are not those that judged, so a row may lose a little.
    assert (after["regret"] >= -4 * np.hypot(before["standard_error"], after["standard_error"])).all()
    assert after["regret"].mean() > 0


@over_asgi
@every
def test_the_terms_of_a_refined_q_add_up(serving: Serving, name: str) -> None:
    answer = scores(serving(name), inputs(name, 5), "samples=5&refine=4")
    np.testing.assert_allclose(answer["free_energy"], answer["distortion"] + answer["rate"], rtol=1e-12)
    np.testing.assert_allclose(answer["rate"], answer["cross_entropy"] - answer["entropy"], rtol=1e-12)
    np.testing.assert_allclose(answer["inference_gap"], answer["free_energy"] - answer["nlog_p_x"], atol=1e-9)


@over_asgi
@every
def test_a_refined_score_does_not_depend_on_the_other_rows(serving: Serving, name: str) -> None:
    x = inputs(name, 20)
    together = scores(serving(name), x, "samples=6&seed=9&refine=10")
    for i in (0, 13):
        alone = scores(serving(name), x[i : i + 1], "samples=6&seed=9&refine=10")
        for key in TERMS:
            close(alone[key], together[key][i : i + 1], 1e-4)
        assert alone["regret"] == pytest.approx(together["regret"][i], abs=1e-4 * abs(together["free_energy"][i]))
    other = scores(serving(name), x[:1], "samples=6&seed=9&refine=11")
    assert other["free_energy"] != together["free_energy"][0]


@pytest.mark.parametrize("name", [GREY, "table-mlp-gaussian"])
def test_concurrent_refinements_do_not_change_a_score(serving: Serving, name: str) -> None:
    client, x = serving(name), inputs(name, 8)
    queries = [f"samples={1 + i % 3}&refine={2 * i}&seed={i}" for i in range(8)]
    alone = [scores(client, x[i : i + 1], query) for i, query in enumerate(queries)]

    async def all_at_once() -> list[dict[str, Any]]:
        calls = (asyncio.to_thread(scores, client, x[i : i + 1], query) for i, query in enumerate(queries))
        return await asyncio.gather(*calls)

    for expected, answer in zip(alone, asyncio.run(all_at_once()), strict=True):
        for key in TERMS:
            np.testing.assert_allclose(answer[key], expected[key], rtol=1e-4, atol=1e-4, err_msg=key)


@every
def test_the_map_of_a_refined_q_adds_up_to_its_distortion(serving: Serving, name: str) -> None:
    x = inputs(name, 3)
    answer = scores(serving(name), x, "samples=4&refine=6&per_dimension=true")
    assert answer["per_dimension"].shape == x.shape
    close(answer["per_dimension"].reshape(3, -1).sum(1), answer["distortion"])
    plain = scores(serving(name), x, "samples=4&per_dimension=true")
    assert not np.array_equal(plain["per_dimension"], answer["per_dimension"])


@pytest.mark.parametrize("name", IMAGES[:1])
def test_the_map_of_a_refined_q_is_available_as_png(serving: Serving, name: str) -> None:
    response = serving(name).post("/free-energy?refine=2&per_dimension=true&format=png", **npy(inputs(name, 1)))
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"


def test_npz_holds_regret_only_after_refinement(grey: Client) -> None:
    x = inputs(GREY, 2)
    with_regret = npz(grey.post("/free-energy?refine=3&format=npz", **npy(x)).content)
    close(with_regret["regret"], scores(grey, x, "refine=3")["regret"], 1e-4)
    assert with_regret["refine"] == 3
    assert "regret" not in npz(grey.post("/free-energy?format=npz", **npy(x)).content)


def test_refinement_steps_count_as_work(grey: Client) -> None:
    x = inputs(GREY, 20)
    assert grey.post("/free-energy?samples=10&refine=9", **npy(x)).status_code == 200
    refused = grey.post("/free-energy?samples=10&refine=10", **npy(x))
    assert refused.status_code == 413
    detail = refused.json()["detail"]
    assert "rows x query.samples x (1 + query.refine) of 2,200 is more than the 2,000" in detail


@pytest.mark.parametrize("steps", ["-1", "1001", "1.5", "x", ""])
def test_an_invalid_number_of_steps_is_refused(grey: Client, steps: str) -> None:
    refused = grey.post(f"/free-energy?refine={steps}", **npy(inputs(GREY, 1)))
    assert refused.status_code == 422
    assert [error["place"] for error in refused.json()["errors"]] == ["query.refine"]


def test_a_deadline_during_a_refinement_is_a_504_and_the_worker_goes_on(
    loaded: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch, transport: Transport
) -> None:
    late, calls = 0.0, 0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late, perf_counter=time.perf_counter)
    monkeypatch.setattr(batcher, "time", clock)
    with client_of(loaded(GREY), transport) as client:
        engine = state_of(client.app).model.engine
        step = engine.calls["descend"]

        def slow(*arrays: Any) -> Any:
            nonlocal late, calls
            calls += 1
            late = 1000.0 if calls == 3 else 0.0
            return step(*arrays)

        engine.calls["descend"] = slow
        refused = client.post("/free-energy?refine=500", **npy(inputs(GREY, 1)))
        assert refused.status_code == 504
        assert "in time" in refused.json()["detail"]
        assert calls == 3
        late = 0.0
        assert client.get("/health/ready").status_code == 200
        assert engine.batcher.waiting == 0
        close(
            scores(client, inputs(GREY, 1), "refine=5")["free_energy"],
            score_batch(build(GREY), inside(GREY, inputs(GREY, 1)), ScoringConfig(1, 5, 0)).estimates.free_energy,
            1e-4,
        )
