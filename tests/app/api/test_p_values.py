"""Typicality and p-values of `/free-energy` over HTTP, of models that are calibrated and of one that is not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from app.api.schemas import FreeEnergies
from model.checkpoint import Checkpoint
from model.scoring.batches import score_batch
from model.scoring.calibration import UNCALIBRATED, ScoringConfig
from tests.support.models import SCORINGS, build
from tests.support.requests import GREY, inputs, inside, npy, npz, over_asgi, scores
from tests.support.services import Client

Serving = Callable[[str], Client]
kinds = pytest.mark.parametrize("name", [GREY, "table-mlp-gaussian"])
every_scoring = pytest.mark.parametrize("scoring", SCORINGS, ids=str)


def query(scoring: ScoringConfig) -> str:
    return f"samples={scoring.samples}&refine={scoring.refine}&seed={scoring.seed}"


def mixed(name: str, count: int) -> np.ndarray[Any, Any]:
    """Inputs of which every second is an outlier: a black image, or a row a hundred times as large."""
    x = inputs(name, count, seed=5)
    x[::2] = 0 if x.dtype == np.uint8 else 100 * x[::2]
    return x


@kinds
@every_scoring
def test_p_values_equal_those_of_the_calibration(
    serving_calibrated: Serving, calibrated: Callable[[str], Checkpoint], name: str, scoring: ScoringConfig
) -> None:
    x = mixed(name, 12)
    calibration = calibrated(name).calibration
    assert calibration is not None
    expected = score_batch(build(name), inside(name, x), scoring, calibration).calibrated
    answer = scores(serving_calibrated(name), x, query(scoring))
    FreeEnergies.model_validate_json(serving_calibrated(name).post("/free-energy", **npy(x)).content)
    assert answer["p_values_reason"] is None
    assert expected.p_values is not None and expected.typicality is not None
    assert answer["p_values"].keys() == expected.p_values.keys()
    assert ("regret" in answer["p_values"]) == (scoring.refine > 0)
    for key, p in expected.p_values.items():
        np.testing.assert_allclose(answer["p_values"][key], p, rtol=1e-12, err_msg=key)
    np.testing.assert_allclose(answer["typicality"], expected.typicality, rtol=1e-3, atol=1e-3)


@over_asgi
@kinds
@every_scoring
def test_p_values_are_multiples_of_one_over_n_plus_one(
    serving_calibrated: Serving, name: str, scoring: ScoringConfig
) -> None:
    answer = scores(serving_calibrated(name), mixed(name, 12), query(scoring))
    for key, p in answer["p_values"].items():
        # One half of the 120 inputs fits typicality, the other calibrates it.
        steps = np.array(p) * (61 if key == "typicality" else 121)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9, err_msg=key)
        assert (steps >= 1 - 1e-9).all()
        assert (np.array(p) <= 1).all()


@over_asgi
@kinds
def test_only_outliers_have_small_p_values(serving_calibrated: Serving, name: str) -> None:
    answer = scores(serving_calibrated(name), mixed(name, 40), "samples=4")
    p = np.array(answer["p_values"]["typicality"])
    assert (p[::2] <= 2 / 61).all()
    assert np.median(p[1::2]) > 0.2
    assert answer["typicality"][::2].min() > np.median(answer["typicality"][1::2])
    assert abs(np.median(answer["typicality"][1::2])) < 1.5


@over_asgi
@kinds
@every_scoring
def test_p_values_of_a_batch_equal_those_of_its_rows(
    serving_calibrated: Serving, name: str, scoring: ScoringConfig
) -> None:
    x = mixed(name, 8)
    together = scores(serving_calibrated(name), x, query(scoring))
    for i in range(8):
        alone = scores(serving_calibrated(name), x[i : i + 1], query(scoring))
        assert alone["p_values"] == {key: p[i : i + 1] for key, p in together["p_values"].items()}
        np.testing.assert_allclose(alone["typicality"], together["typicality"][i : i + 1], rtol=1e-3, atol=1e-3)


@kinds
@pytest.mark.parametrize("other", [ScoringConfig(2, 0, 0), ScoringConfig(4, 6, 0), ScoringConfig(4, 0, 1)], ids=str)
def test_uncalibrated_scorings_have_no_p_values(serving_calibrated: Serving, name: str, other: ScoringConfig) -> None:
    answer = scores(serving_calibrated(name), inputs(name, 2), query(other))
    assert answer["p_values"] is None
    assert answer["typicality"] is None
    assert f"not for ({other})" in answer["p_values_reason"]
    assert all(f"({scoring})" in answer["p_values_reason"] for scoring in SCORINGS)
    assert len(answer["free_energy"]) == 2


@kinds
def test_a_model_without_a_calibration_has_no_p_values_and_gives_the_reason(serving: Serving, name: str) -> None:
    answer = scores(serving(name), inputs(name, 2), "samples=4")
    assert answer["p_values"] is None
    assert answer["typicality"] is None
    assert answer["p_values_reason"] == UNCALIBRATED
    assert "vae calibrate" in answer["p_values_reason"]
    arrays = npz(serving(name).post("/free-energy?format=npz", **npy(inputs(name, 2))).content)
    assert "p_values.free_energy" not in arrays


@kinds
@every_scoring
def test_npz_names_each_p_value_by_its_score(serving_calibrated: Serving, name: str, scoring: ScoringConfig) -> None:
    x = mixed(name, 4)
    arrays = npz(serving_calibrated(name).post(f"/free-energy?format=npz&{query(scoring)}", **npy(x)).content)
    answer = scores(serving_calibrated(name), x, query(scoring))
    assert {key for key in arrays if key.startswith("p_values")} == {f"p_values.{key}" for key in answer["p_values"]}
    assert {"p_values.free_energy", "p_values.free_energy_two_sided", "p_values.typicality"} <= set(arrays)
    assert ("p_values.regret" in arrays) == (scoring.refine > 0)
    for key, p in answer["p_values"].items():
        np.testing.assert_array_equal(arrays[f"p_values.{key}"], p)
    np.testing.assert_allclose(arrays["typicality"], answer["typicality"], rtol=1e-3, atol=1e-3)


def test_the_digest_of_a_model_changes_with_its_calibration(serving: Serving, serving_calibrated: Serving) -> None:
    assert serving(GREY).get("/model").json()["digest"] != serving_calibrated(GREY).get("/model").json()["digest"]
