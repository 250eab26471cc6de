"""Card, metrics, OpenAPI document and pages."""

import math
import re
from collections.abc import Callable
from typing import get_type_hints

import pytest
from fastapi.routing import APIRoute
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families

from app import __version__
from app.api.routers import ROUTERS
from app.api.schemas import Answer, FreeEnergies, ModelCard
from app.inference.context import RequestContext
from app.settings import Settings
from model.checkpoint import Checkpoint
from tests.support.models import CONFIGS, SCORINGS
from tests.support.requests import every, inputs, npy
from tests.support.services import Client

Serving = Callable[[str], Client]


@every
def test_the_card_holds_the_model_and_the_limits(
    serving: Serving, loaded: Callable[[str], Checkpoint], name: str
) -> None:
    card = ModelCard.model_validate(serving(name).get("/model").json())
    assert card.name == name
    assert card.digest == loaded(name).digest
    assert card.latent == CONFIGS[name].latent
    assert card.limits.max_rows == 64
    assert card.version == __version__
    assert card.discrete == (CONFIGS[name].likelihood.name != "gaussian")
    assert (card.conversion is None) == name.startswith("table")
    assert card.calibrations == []
    assert [warning.code for warning in card.warnings] == ["not_calibrated", "not_evaluated"]
    assert card.anomaly_score == "free_energy"


def test_the_card_lists_the_calibrated_scorings(serving_calibrated: Serving) -> None:
    client = serving_calibrated("table-mlp-gaussian")
    card = ModelCard.model_validate(client.get("/model").json())
    assert [(c.samples, c.refine, c.seed, c.inputs) for c in card.calibrations] == [(*p, 120) for p in SCORINGS]
    # One half fits typicality, the other is what typicalities are compared with.
    assert [c.typicality_inputs for c in card.calibrations] == [60] * len(SCORINGS)
    assert card.anomaly_score == "typicality"
    for scoring in card.calibrations:
        query = f"samples={scoring.samples}&refine={scoring.refine}&seed={scoring.seed}"
        answer = client.post(f"/free-energy?{query}", **npy(inputs("table-mlp-gaussian", 1))).json()
        assert card.anomaly_score in answer["p_values"]


ROUTES = [route for router, _ in ROUTERS for route in router.routes if isinstance(route, APIRoute)]


@every
def test_the_openapi_document_is_valid_and_complete(serving: Serving, name: str) -> None:
    document = serving(name).get("/openapi.json").json()
    validate(document)
    assert set(document["paths"]) == {route.path for route in ROUTES}
    for route in ROUTES:
        assert route.methods is not None
        (method,) = route.methods
        assert document["paths"][route.path].keys() == {method.lower()}
        operation = document["paths"][route.path][method.lower()]
        assert operation["summary"] and operation["description"]
        parameters = operation.get("parameters", [])
        hints = get_type_hints(route.endpoint)
        assert {p["name"] for p in parameters if p["in"] == "query"} == set(hints["params"].model_fields)
        takes_time = hints.get("context") is RequestContext
        assert {p["name"] for p in parameters if p["in"] == "header"} == (
            {"X-Request-Timeout"} if takes_time else set()
        )
        assert ("requestBody" in operation) == ("inputs" in hints or "latents" in hints)
        for parameter in parameters:
            assert parameter["description"], (route.path, parameter)
        for status, response in operation["responses"].items():
            if status == "304":
                assert "content" not in response
            elif status != "200":
                assert response["content"]["application/problem+json"]["example"]["status"] == int(status)


@every
def test_every_request_example_of_openapi_succeeds(serving_shown: Serving, name: str) -> None:
    client = serving_shown(name)
    document = client.get("/openapi.json").json()
    tried = 0
    for path, item in document["paths"].items():
        for says in item.values():
            for media, content in says.get("requestBody", {}).get("content", {}).items():
                if "example" in content:
                    assert media == "application/json"
                    assert client.post(path, json=content["example"]).status_code == 200
                    tried += 1
    assert tried == 6


@pytest.mark.parametrize("kind", dict.fromkeys(route.response_model for route in ROUTES if route.response_model))
def test_every_response_example_of_openapi_is_valid(kind: type[Answer]) -> None:
    schema = kind.model_json_schema()
    (example,) = schema["examples"]
    kind.model_validate(example)
    assert set(schema.get("required", [])) <= set(example)


def test_the_terms_of_the_free_energy_example_add_up() -> None:
    (example,) = FreeEnergies.model_json_schema()["examples"]
    score = {name: value[0] for name, value in example.items() if isinstance(value, list)}
    assert score["free_energy"] == score["distortion"] + score["rate"]
    assert score["rate"] == score["cross_entropy"] - score["entropy"]
    assert score["inference_gap"] == score["free_energy"] - score["nlog_p_x"]
    assert score["bits_per_dim"] == pytest.approx(score["free_energy"] / (4 * math.log(2)), abs=1e-2)


def test_the_documentation_requests_no_other_host(grey: Client) -> None:
    page = grey.get("/docs")
    assert "https://" not in page.text
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert asset in page.text
        assert grey.get(f"/static-offline-docs/{asset}").status_code == 200


def test_the_root_page_and_its_assets_are_served(grey: Client) -> None:
    page = grey.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "unsafe" not in page.headers["content-security-policy"]
    # Swagger UI has a script in its page.
    assert "unsafe-inline" in grey.get("/docs").headers["content-security-policy"]
    named = re.findall(r'(?:src|href)="(explorer/[^"]+)"', page.text)
    for name in ("app.js", "api.js", "dom.js", "inspector.js", "map.js"):
        text = grey.get(f"/explorer/{name}").text
        named += [f"explorer/{other}" for other in re.findall(r'from "\./([a-z]+\.js)"', text)]
    assert len(set(named)) > 10
    for name in named:
        answer = grey.get(f"/{name}")
        assert answer.status_code == 200, name
        assert answer.headers["cache-control"] == "no-cache", "of two versions a browser might mix the modules"
        again = grey.get(f"/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
    assert grey.get("/explorer/").status_code == grey.get("/explorer/../main.py").status_code == 404


def test_metrics_count_requests_by_route_and_rows_by_call(grey: Client) -> None:
    def value(name: str, **labels: str) -> float:
        families = text_string_to_metric_families(grey.get("/metrics").text)
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    ok = {"route": "/encode", "method": "POST", "status": "200"}
    before, rows = value("vae_requests_total", **ok), value("vae_batch_rows_sum", call="encode")
    strangers = value("vae_requests_total", route="other")
    grey.post("/encode", **npy(inputs("grey-mlp-discretized", 3)))
    grey.get("/stranger/1")
    grey.get("/stranger/2")
    assert value("vae_requests_total", **ok) == before + 1
    assert value("vae_batch_rows_sum", call="encode") == rows + 3
    assert value("vae_requests_total", route="other") == strangers + 2
    assert value("vae_request_duration_seconds_count", route="/encode") > 0
    assert value("vae_ready") == 1
    assert value("vae_queue_rows") == value("vae_body_bytes") == 0
    assert value("vae_queue_seconds", size="small") == value("vae_queue_seconds", size="large") == 0
    assert value("vae_queue_limit_seconds", size="small") == Settings(model="").queue_seconds
    assert value("vae_queue_limit_seconds", size="large") == Settings(model="").deadline / 2
    assert value("vae_queue_limit_rows") == Settings(model="").queue_rows
    assert value("vae_body_limit_bytes") == Settings(model="").queue_bytes
    assert value("vae_resident_memory_bytes") > 1 << 26
    assert 0 < value("vae_model_load_seconds") < 60
    assert value("vae_model_info", digest=grey.get("/model").json()["digest"]) == 1


@pytest.mark.parametrize("path", ["/model", "/health/live", "/docs", "/metrics", "/sample"])
def test_every_response_has_the_digest_header(grey: Client, path: str) -> None:
    assert grey.get(path).headers["x-model-digest"] == grey.get("/model").json()["digest"]


def test_head_is_answered_without_a_body(grey: Client) -> None:
    response = grey.head("/health/ready")
    assert response.status_code == 200
    assert response.content == b""
