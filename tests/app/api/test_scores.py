"""`/free-energy` over HTTP."""

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model import random
from model.scoring import program
from model.scoring.batches import estimate
from model.scoring.functions import discrete_dims, torch_calls
from model.scoring.program import Estimate, LabelQuery, Posterior, run
from tests.support.models import CLASSES, CONFIGS, SHARES, build
from tests.support.requests import IMAGES, close, every, inputs, inside, npy, npz, over_asgi
from tests.support.services import Client

Serving = Callable[[str], Client]
TERMS = ("free_energy", "distortion", "cross_entropy", "entropy", "rate", "nlog_p_x")


@every
def test_scores_equal_those_of_the_estimator_with_the_same_seed(serving: Serving, name: str) -> None:
    x = inputs(name, 7)
    vae = build(name)
    draws = torch.from_numpy(random.normal(3, (6, vae.config.latent)))
    expected = estimate(vae, inside(name, x), vae.encode(inside(name, x)), draws)
    answer = serving(name).post("/free-energy?samples=6&seed=3", **npy(x)).json()
    for key in TERMS:
        close(answer[key], getattr(expected, key))
    assert (answer["rate_analytic"] is None) == (vae.config.prior.name == "flow")
    if expected.rate_analytic is not None:
        close(answer["rate_analytic"], expected.rate_analytic)
    close(answer["standard_error"], expected.standard_error, 1e-3)
    close(answer["effective_sample_size"], expected.effective_sample_size, 1e-3)


@over_asgi
@every
def test_the_terms_add_up(serving: Serving, name: str) -> None:
    answer = {
        k: np.array(v) for k, v in serving(name).post("/free-energy?samples=5", **npy(inputs(name, 9))).json().items()
    }
    np.testing.assert_allclose(answer["free_energy"], answer["distortion"] + answer["rate"], rtol=1e-12)
    np.testing.assert_allclose(answer["rate"], answer["cross_entropy"] - answer["entropy"], rtol=1e-12)
    np.testing.assert_allclose(answer["inference_gap"], answer["free_energy"] - answer["nlog_p_x"], atol=1e-9)
    assert (answer["inference_gap"] >= -1e-9).all()
    assert (answer["effective_sample_size"] >= 1 - 1e-9).all()
    assert (answer["effective_sample_size"] <= 5 + 1e-9).all()
    if CONFIGS[name].likelihood.name == "gaussian":
        assert answer["bits_per_dim"] == np.array(None)
    else:
        bits = answer["free_energy"] / (CONFIGS[name].data.dims * math.log(2))
        np.testing.assert_allclose(answer["bits_per_dim"], bits, rtol=1e-12)


def test_one_draw_has_no_standard_error_and_no_gap(grey: Client) -> None:
    answer = grey.post("/free-energy", **npy(inputs("grey-mlp-discretized", 2))).json()
    assert answer["samples"] == 1
    assert answer["standard_error"] is None
    assert answer["inference_gap"] == [0, 0]
    assert answer["effective_sample_size"] == [1, 1]
    assert "standard_error" not in npz(
        grey.post("/free-energy?format=npz", **npy(inputs("grey-mlp-discretized", 2))).content
    )


@over_asgi
@every
def test_a_score_does_not_depend_on_the_other_rows(serving: Serving, name: str) -> None:
    client = serving(name)
    x = inputs(name, 20)
    together = client.post("/free-energy?samples=40&seed=9", **npy(x)).json()
    for i in (0, 13):
        alone = client.post("/free-energy?samples=40&seed=9", **npy(x[i : i + 1])).json()
        for key in TERMS:
            close(alone[key], together[key][i : i + 1])
    other = client.post("/free-energy?samples=40&seed=10", **npy(x[:1])).json()
    assert other["free_energy"] != together["free_energy"][:1]


@every
def test_the_map_adds_up_to_the_distortion(serving: Serving, name: str) -> None:
    x = inputs(name, 3)
    answer = serving(name).post("/free-energy?samples=4&per_dimension=true", **npy(x)).json()
    surprise = np.array(answer["per_dimension"])
    assert surprise.shape == x.shape
    close(surprise.reshape(3, -1).sum(1), answer["distortion"])
    assert "per_dimension" not in serving(name).post("/free-energy", **npy(x)).json()


@pytest.mark.parametrize("name", IMAGES)
def test_the_png_of_the_map_is_ordered_as_its_values(serving: Serving, name: str) -> None:
    x = inputs(name, 1)
    client = serving(name)
    surprise = np.array(client.post("/free-energy?per_dimension=true", **npy(x)).json()["per_dimension"])[0]
    grey = surprise.mean(axis=-1) if surprise.ndim == 3 else surprise
    response = client.post("/free-energy?per_dimension=true&format=png", **npy(x))
    picture = np.asarray(Image.open(io.BytesIO(response.content)))
    assert picture.shape == x.shape[1:3]
    assert picture.ravel()[grey.argmax()] == picture.max()
    order = np.argsort(grey.ravel())
    assert (np.diff(picture.ravel()[order].astype(int)) >= 0).all()
    assert client.post("/free-energy?format=png", **npy(x)).status_code == 406


def test_requests_with_too_much_work_are_refused(grey: Client) -> None:
    x = inputs("grey-mlp-discretized", 20)
    assert grey.post("/free-energy?samples=100", **npy(x)).status_code == 200
    refused = grey.post("/free-energy?samples=101", **npy(x))
    assert refused.status_code == 413
    assert "2,020 is more than the 2,000" in refused.json()["detail"]
    assert grey.post("/free-energy?samples=201", **npy(x)).status_code == 413


LABELLED = "grey-conv-flow"


def given_label(label: int, count: int = 5, samples: int = 6) -> Estimate:
    """Scores of the first inputs given a label, and P(label|x), by the estimator."""
    vae, x = build(LABELLED), inside(LABELLED, inputs(LABELLED, count))
    log_label = np.log([each.probability for each in vae.prior.labels])
    q = Posterior.of(vae.encode(x), analytic_rate=False)
    draws = random.normal(3, (samples, vae.config.latent))
    labels = LabelQuery(np.full(count, label), log_label)
    return run(program.estimate(x.numpy(), q, draws, discrete_dims(vae), labels=labels), torch_calls(vae))


def test_scores_given_a_label(serving: Serving) -> None:
    client, body = serving(LABELLED), npy(inputs(LABELLED, 5))
    alone = client.post("/free-energy?samples=6&seed=3", **body).json()
    for label, name in enumerate(CLASSES):
        answer = client.post("/free-energy", params={"samples": 6, "seed": 3, "label": name}, **body).json()
        expected = given_label(label).scores
        for key in TERMS:
            close(answer[key], getattr(expected, key))
        assert answer["labels"] == [name] * 5
        assert (answer["p_values"], answer["typicality"]) == (None, None)
        assert "given a label" in answer["p_values_reason"]
        close(answer["distortion"], alone["distortion"])
        close(answer["entropy"], alone["entropy"])
        # P(z) is the mixture, so no label makes z less probable than its share.
        nats = np.array(answer["cross_entropy"]) + math.log(SHARES[label])
        assert (np.array(alone["cross_entropy"]) <= nats - 2 * math.log(SHARES[label]) + 1e-6).all()


def test_labels_of_rows_come_in_json(serving: Serving) -> None:
    client, x = serving(LABELLED), (inputs(LABELLED, 3) / 255).tolist()
    labels = [CLASSES[2], CLASSES[0], CLASSES[2]]
    answer = client.post("/free-energy?samples=6&seed=3", json={"inputs": x, "labels": labels}).json()
    assert answer["labels"] == labels
    for row, label in enumerate((2, 0, 2)):
        close(answer["free_energy"][row], given_label(label).scores.free_energy[row])


def test_probabilities_of_labels(serving: Serving) -> None:
    client, body = serving(LABELLED), npy(inputs(LABELLED, 5))
    asked = "/free-energy?samples=6&seed=3&label_probabilities=true"
    answer = client.post(asked, **body).json()
    expected = given_label(0).label_probabilities
    assert expected is not None
    close(answer["label_probabilities"], expected)
    np.testing.assert_allclose(np.sum(answer["label_probabilities"], axis=1), 1)
    # By Bayes' rule, from the bounds of x given each label.
    bounds = np.stack([given_label(label).scores.nlog_p_x for label in range(3)], axis=1)
    weights = np.exp(bounds.min(axis=1, keepdims=True) - bounds) * SHARES
    close(answer["label_probabilities"], weights / weights.sum(axis=1, keepdims=True), 1e-3)
    alone = client.post("/free-energy?samples=6&seed=3", **body).json()
    close(answer["free_energy"], alone["free_energy"])
    assert answer["p_values"] == alone["p_values"]
    refined = client.post(f"{asked}&refine=2&format=npz", **body)
    assert npz(refined.content)["label_probabilities"].shape == (5, 3)


GREY_BODY = {"json": {"inputs": [[[0.5] * 8] * 8]}}


@over_asgi
@pytest.mark.parametrize(
    ("query", "extra", "detail"),
    [
        ("?label=horse", {}, "query.label: is 'horse'; the labels are 'cat', 'dog', '<b>bird</b>'"),
        ("", {"labels": ["cat", "dog"]}, "labels: expected a list of 1 strings, one for each row"),
        ("", {"labels": [3]}, "labels[0]: expected a string, got a number"),
        ("", {"labels": ["horse"]}, "labels[0]: is 'horse'"),
        ("?label=cat", {"labels": ["cat"]}, "query.label: the body has labels too"),
        ("?label=cat&per_dimension=true", {}, "query.per_dimension: is the same for every label"),
        ("", {"label": ["cat"]}, "body.label: unknown key; the keys are 'inputs', 'labels'"),
    ],
)
def test_wrong_labels_are_refused(serving: Serving, query: str, extra: dict[str, Any], detail: str) -> None:
    answer = serving(LABELLED).post(f"/free-energy{query}", json=GREY_BODY["json"] | extra)
    assert (answer.status_code, detail in answer.json()["detail"]) == (422, True), answer.text


@over_asgi
def test_a_model_without_labels_says_so(serving: Serving) -> None:
    client, body = serving("grey-conv-gaussian"), GREY_BODY["json"]
    for query, extra in (("?label=cat", {}), ("?label_probabilities=true", {}), ("", {"labels": ["cat"]})):
        answer = client.post(f"/free-energy{query}", json=body | extra)
        assert answer.status_code == 422
        assert "this model distinguishes no labels" in answer.json()["detail"]
    assert client.get("/model").json()["labels"] is None
    assert serving(LABELLED).get("/model").json()["labels"] == list(CLASSES)
