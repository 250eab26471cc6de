"""Log formats, the access log, and headers of responses."""

import json
import logging
import re
from collections.abc import Callable

import pytest

from app.middleware.request_state import choose_request_id
from app.observability import logs
from app.observability.logs import JSONFormatter
from model.checkpoint import Checkpoint
from tests.support.services import Client, Transport, client_of


def test_a_record_is_one_json_object() -> None:
    try:
        raise ValueError('with "quotes"\nand lines')
    except ValueError as error:
        record = logging.LogRecord("vae", logging.ERROR, __file__, 1, "%s failed", ("it",), (type(error), error, None))
    record.fields = {"id": "a1", "rows": 3}
    line = JSONFormatter().format(record)
    assert "\n" not in line
    entry = json.loads(line)
    assert entry.pop("time").endswith("+00:00")
    assert 'with "quotes"' in entry.pop("error")
    assert entry == {"level": "error", "logger": "vae", "message": "it failed", "id": "a1", "rows": 3}


@pytest.mark.parametrize(
    ("log_format", "line"), [("human", r"\d.* WARNING vae: full$"), ("json", r'\{"time":.*"message":"full"\}$')]
)
def test_the_settings_choose_the_format(log_format: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.Logger("root of a test")
    monkeypatch.setattr(logging, "root", root)
    logs.configure("warning", log_format)
    assert root.level == logging.WARNING
    record = logging.LogRecord("vae", logging.WARNING, __file__, 1, "full", None, None)
    assert re.match(line, root.handlers[0].format(record))


def test_the_access_log_has_one_line_a_request_with_its_id_and_times(
    loaded: Callable[[str], Checkpoint], caplog: pytest.LogCaptureFixture, transport: Transport
) -> None:
    with client_of(loaded("table-mlp-gaussian"), transport) as client, caplog.at_level("INFO", "vae.access"):
        answer = client.post("/encode", json={"inputs": [[40, 1.7, 70]] * 3}, headers={"X-Request-ID": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"
        client.get("/nowhere")
        client.get("/sample?n=2")
    encode, nowhere, sample = (record.fields for record in caplog.records if record.name == "vae.access")  # type: ignore[attr-defined]
    assert encode["id"] == "mine-1"
    assert (encode["method"], encode["path"], encode["route"], encode["status"]) == ("POST", "/encode", "/encode", 200)
    assert encode["rows"] == 3
    assert 0 <= encode["queued"] < encode["milliseconds"]
    assert 0 < encode["computed"] < encode["milliseconds"]
    assert (nowhere["route"], nowhere["status"]) == ("other", 404)
    assert "rows" not in nowhere
    assert sample["rows"] == 2
    assert "mine-1" in caplog.text and "rows=3" in caplog.text


def test_request_ids_that_could_forge_a_log_line_are_replaced_by_unique_ones() -> None:
    assert choose_request_id(b"a/B_1.2:3=4@5-6+7") == b"a/B_1.2:3=4@5-6+7"
    for bad in (None, b"", b"a b", b"a\r\nb", b"\xff", b"x" * 129, b'"'):
        assert choose_request_id(bad) != bad
        assert choose_request_id(bad) != choose_request_id(bad)


def test_pages_and_api_responses_carry_security_headers(grey: Client) -> None:
    page, answer = grey.get("/docs"), grey.get("/sample")
    assert page.headers["x-content-type-options"] == answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-frame-options"] == "DENY"
    assert "content-security-policy" not in answer.headers


def test_other_origins_are_allowed_if_the_settings_name_them(
    loaded: Callable[[str], Checkpoint], transport: Transport
) -> None:
    here, asked = {"Origin": "https://here.example"}, {"Access-Control-Request-Method": "POST"}
    model = loaded("table-mlp-gaussian")
    with client_of(model, transport) as client:
        assert "access-control-allow-origin" not in client.get("/sample", headers=here).headers
        assert client.options("/encode", headers=here | asked).status_code == 405
    with client_of(model, transport, cors_origins="https://here.example, https://there.example") as client:
        answer = client.get("/sample", headers=here)
        assert answer.headers["access-control-allow-origin"] == "https://here.example"
        assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
        assert "x-model-digest" in answer.headers
        allowed = client.options("/encode", headers=here | asked | {"Access-Control-Request-Headers": "authorization"})
        assert allowed.status_code == 200
        assert "POST" in allowed.headers["access-control-allow-methods"]
        other = client.get("/sample", headers={"Origin": "https://elsewhere.example"})
        assert "access-control-allow-origin" not in other.headers
