"""`vae score`: p-values beside the scores, and what is flagged by them."""

import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from app.cli import main as cli
from app.cli.score import SCORES
from model import checkpoint
from model.checkpoint import Checkpoint
from model.errors import DataError
from model.scoring import batches
from model.scoring.calibration import UNCALIBRATED, ScoringConfig
from model.scoring.free_energy import FreeEnergy
from tests.support.commands import Invoke, table
from tests.support.models import SCORINGS, reference

NAME = "table-mlp-gaussian"
Load = Callable[[str], Checkpoint]
Floats = NDArray[np.float64]


def mixed() -> NDArray[Any]:
    """90 rows, of which the first 30 are far out."""
    x = reference(NAME, 90, seed=9)
    x[:30] *= 3
    return x


@pytest.fixture
def data(vae: Invoke) -> str:
    """The name of their file, where we are."""
    np.save("rows.npy", mixed())
    return "rows.npy"


def column(name: str) -> Floats:
    """Of the scores that were written."""
    return np.array([float(row[name]) for row in table("scores.csv")])


def benjamini_hochberg(p: Floats, rate: float) -> list[int]:
    """The step-up procedure as its definition says it, p-value by p-value."""
    ranked = sorted(p)
    passed = [value for rank, value in enumerate(ranked, start=1) if value <= rate * rank / len(p)]
    return [int(bool(passed) and value <= max(passed)) for value in p]


def few_inputs(model: Checkpoint) -> str:
    """The name of a copy of a model, calibrated on too few inputs for typicality."""
    shutil.copytree(model.folder, "fewer")
    checkpoint.save_calibration(Path("fewer"), batches.calibrate(model.vae, reference(NAME, 60), SCORINGS))
    return "fewer"


@pytest.mark.parametrize("scoring", SCORINGS, ids=str)
def test_p_values_and_typicality_are_written_beside_the_scores(
    vae: Invoke, calibrated: Load, data: str, scoring: ScoringConfig
) -> None:
    model = calibrated(NAME)
    options = ("--samples", str(scoring.samples), "--refine", str(scoring.refine), "--seed", str(scoring.seed))
    message = vae("score", str(model.folder), data, "--out", "scores.csv", *options)
    assert "Wrote the scores of 90 samples to scores.csv" in message
    assert "No p-values" not in message
    (batch,) = batches.score(model.vae, [mixed()], scoring, model.calibration)
    calibrated_scores, estimates = batch.scores.calibrated, batch.scores.estimates
    p_values = calibrated_scores.p_values
    assert p_values is not None and calibrated_scores.typicality is not None
    written = table("scores.csv")
    terms = [field.name for field in fields(FreeEnergy)]
    assert list(written[0]) == ["sample", *terms, "regret", "typicality", *(f"p_{name}" for name in SCORES)]
    for name in SCORES:
        if name in p_values:
            np.testing.assert_array_equal(column(f"p_{name}"), p_values[name])
        else:
            assert {row[f"p_{name}"] for row in written} == {""}
    np.testing.assert_allclose(column("typicality"), calibrated_scores.typicality, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(column("free_energy"), estimates.free_energy, rtol=1e-5)


def test_refinement_lowers_free_energy_by_the_regret(vae: Invoke, calibrated: Load, data: str) -> None:
    model = str(calibrated(NAME).folder)
    vae("score", model, data, "--out", "scores.csv", "--samples", "4")
    before = column("free_energy")
    assert {row["regret"] for row in table("scores.csv")} == {""}
    vae("score", model, data, "--out", "scores.csv", "--samples", "4", "--refine", "5")
    np.testing.assert_allclose(column("regret"), before - column("free_energy"), rtol=1e-6, atol=1e-6)
    assert column("regret").mean() > 0
    assert ((column("p_regret") > 0) & (column("p_regret") <= 1)).all()


def test_missing_p_values_are_explained(vae: Invoke, loaded: Load, calibrated: Load, data: str) -> None:
    message = vae("score", str(loaded(NAME).folder), data, "--out", "scores.csv")
    assert f"No p-values: {UNCALIBRATED}" in message
    message = vae("score", str(calibrated(NAME).folder), data, "--out", "scores.csv", "--samples", "3")
    assert "No p-values: the model is calibrated for (samples=1, refine=0, seed=0)" in message
    assert "not for (samples=3, refine=0, seed=0)" in message
    for row in table("scores.csv"):
        assert {row[name] for name in row if name.startswith("p_")} == {""}
        assert row["typicality"] == ""
        assert row["free_energy"]


@pytest.mark.parametrize("by", ["free_energy", "free_energy_two_sided", "regret", "typicality"])
@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5])
def test_flags_follow_benjamini_and_hochberg(vae: Invoke, calibrated: Load, data: str, by: str, rate: float) -> None:
    options = ("--samples", "4", "--refine", "5", "--flag", str(rate), "--by", by)
    message = vae("score", str(calibrated(NAME).folder), data, "--out", "scores.csv", *options)
    flagged = column("flagged").astype(int).tolist()
    assert flagged == benjamini_hochberg(column(f"p_{by}"), rate)
    assert f"Flagged {sum(flagged)} of 90 by {by}, with a false discovery rate of {rate:g}" in message
    assert list(table("scores.csv")[0])[-1] == "flagged"


def test_flagging_changes_nothing_else(vae: Invoke, calibrated: Load, data: str) -> None:
    model = str(calibrated(NAME).folder)
    vae("score", model, data, "--out", "scores.csv")
    plain = table("scores.csv")
    vae("score", model, data, "--out", "scores.csv", "--flag", "0.1")
    assert [{key: value for key, value in row.items() if key != "flagged"} for row in table("scores.csv")] == plain
    assert {path.name for path in Path().iterdir()} == {"rows.npy", "scores.csv"}


def test_outliers_are_flagged_and_few_others(vae: Invoke, calibrated: Load, data: str) -> None:
    message = vae("score", str(calibrated(NAME).folder), data, "--out", "scores.csv", "--flag", "0.1")
    assert "by typicality" in message
    flagged = column("flagged")
    assert flagged[:30].all()
    assert flagged[30:].sum() <= 9


def test_the_least_and_the_largest_rate(vae: Invoke, calibrated: Load, data: str) -> None:
    model = str(calibrated(NAME).folder)
    vae("score", model, data, "--out", "scores.csv", "--flag", "0")
    assert not column("flagged").any()
    vae("score", model, data, "--out", "scores.csv", "--flag", "1")
    assert column("flagged").all()
    refused = CliRunner().invoke(cli.cli, ["score", model, data, "--out", "scores.csv", "--flag", "1.5"])
    assert refused.exit_code == 2


def test_without_typicality_free_energy_decides(vae: Invoke, loaded: Load, data: str) -> None:
    model = few_inputs(loaded(NAME))
    message = vae("score", model, data, "--out", "scores.csv", "--flag", "0.1")
    assert "by free_energy, with" in message
    assert column("flagged").astype(int).tolist() == benjamini_hochberg(column("p_free_energy"), 0.1)


@pytest.mark.parametrize("by", ["typicality", "regret"])
def test_p_values_that_these_scores_do_not_have_cannot_decide(vae: Invoke, loaded: Load, data: str, by: str) -> None:
    model = few_inputs(loaded(NAME))
    with pytest.raises(DataError, match=f"--by {by}: this model has no p-values of it for these scores; omit --by"):
        vae("score", model, data, "--out", "scores.csv", "--flag", "0.1", "--by", by)
    assert not Path("scores.csv").exists()


def test_nothing_is_flagged_without_a_calibration(vae: Invoke, loaded: Load, calibrated: Load, data: str) -> None:
    Path("scores.csv").write_text("what was there before")
    with pytest.raises(DataError, match=r"nothing can be flagged without p-values: .*vae calibrate"):
        vae("score", str(loaded(NAME).folder), data, "--out", "scores.csv", "--flag", "0.1")
    with pytest.raises(DataError, match=r"nothing can be flagged .* not for \(samples=3, refine=0, seed=0\)"):
        vae("score", str(calibrated(NAME).folder), data, "--out", "scores.csv", "--flag", "0.1", "--samples", "3")
    assert Path("scores.csv").read_text() == "what was there before"
    assert {path.name for path in Path().iterdir()} == {"rows.npy", "scores.csv"}
