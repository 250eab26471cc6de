"""Authorization with and without keys."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.api.errors import Forbidden, Unauthorized
from app.api.keys import Access, Keys, read_keys
from model.checkpoint import Checkpoint
from model.errors import ConfigError
from tests.support.services import Client, Transport, client_of

USER, OTHER, ADMIN = "user-key-0123456789", "other/key+0123456789==", "admin-key-0123456789"
PUBLIC: Access = "public"
USER_ACCESS: Access = "user"
ADMIN_ACCESS: Access = "admin"


def test_without_keys_every_request_is_authorized() -> None:
    keys = Keys()
    for access in (PUBLIC, USER_ACCESS, ADMIN_ACCESS):
        assert not keys.requires_key(access)
        keys.check(access, "")


def test_user_keys_open_the_model_and_admin_keys_open_all_routes() -> None:
    keys = Keys([USER, OTHER], [ADMIN])
    for key in (USER, OTHER, ADMIN):
        keys.check(USER_ACCESS, key)
        keys.check(USER_ACCESS, f" {key} ")
    keys.check(ADMIN_ACCESS, ADMIN)
    with pytest.raises(Forbidden, match="administrators"):
        keys.check(ADMIN_ACCESS, USER)
    keys.check(PUBLIC, "")


@pytest.mark.parametrize("key", ["", " ", f"Basic {USER}", USER[:-1], f"{USER}x", "\udcff\xe9"])
def test_anything_else_is_unauthorized(key: str) -> None:
    for access in (USER_ACCESS, ADMIN_ACCESS):
        with pytest.raises(Unauthorized) as refused:
            Keys([USER], [ADMIN]).check(access, key)
        assert USER not in str(refused.value)


@pytest.mark.parametrize("authorization", ["", USER, "Bearer", f"Basic {USER}", f"Bearer {USER}x"])
def test_a_header_without_a_valid_key_is_a_401(guarded: Client, authorization: str) -> None:
    assert guarded.get("/sample", headers={"Authorization": authorization}).status_code == 401
    for scheme in ("bearer", "BEARER"):
        assert guarded.get("/sample", headers={"Authorization": f"{scheme}  {USER}"}).status_code == 200


def test_with_admin_keys_only_the_model_needs_no_key() -> None:
    keys = Keys([], [ADMIN])
    keys.check(USER_ACCESS, "")
    with pytest.raises(Unauthorized):
        keys.check(ADMIN_ACCESS, "")
    # And with users alone, nobody is an administrator.
    with pytest.raises(Forbidden):
        Keys([USER]).check(ADMIN_ACCESS, USER)


def test_keys_are_read_from_the_environment_or_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert read_keys("VAE_API_KEYS") == []
    for empty in ("", " ", ","):
        monkeypatch.setenv("VAE_API_KEYS", empty)
        with pytest.raises(ConfigError, match="VAE_API_KEYS: is set, but holds no keys"):
            read_keys("VAE_API_KEYS")
    monkeypatch.setenv("VAE_API_KEYS", f" {USER},{OTHER} ,")
    assert read_keys("VAE_API_KEYS") == [USER, OTHER]
    file = tmp_path / "keys"
    file.write_text(f"# given to nobody yet\n{USER}\n\n  {OTHER}\n")
    monkeypatch.setenv("VAE_API_KEYS_FILE", str(file))
    with pytest.raises(ConfigError, match="both set"):
        read_keys("VAE_API_KEYS")
    monkeypatch.delenv("VAE_API_KEYS")
    assert read_keys("VAE_API_KEYS") == [USER, OTHER]


@pytest.mark.parametrize("text", ["", "# nothing\n", "short\n", f"{USER}\nwith blanks in it it is none\n"])
def test_an_invalid_key_file_is_refused_without_showing_its_content(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    monkeypatch.setenv("VAE_ADMIN_KEYS_FILE", str(file))
    with pytest.raises(ConfigError) as refused:
        read_keys("VAE_ADMIN_KEYS")
    assert "keys" in str(refused.value)
    assert not any(line in str(refused.value) for line in text.splitlines() if line and not line.startswith("#"))
    monkeypatch.setenv("VAE_ADMIN_KEYS_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys("VAE_ADMIN_KEYS")


@pytest.fixture
def guarded(
    loaded: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch, transport: Transport
) -> Iterator[Client]:
    """A client of a service with a key of each kind."""
    monkeypatch.setenv("VAE_API_KEYS", USER)
    monkeypatch.setenv("VAE_ADMIN_KEYS", ADMIN)
    with client_of(loaded("grey-mlp-discretized"), transport) as client:
        yield client


def test_the_service_asks_for_keys(guarded: Client, caplog: pytest.LogCaptureFixture) -> None:
    def ask(path: str, key: str = "") -> int:
        answer = guarded.get(path, headers={"Authorization": f"Bearer {key}"} if key else {})
        if answer.status_code in {401, 403}:
            assert answer.headers["content-type"] == "application/problem+json"
            assert (answer.headers.get("www-authenticate") == "Bearer") == (answer.status_code == 401)
        return answer.status_code

    with caplog.at_level("DEBUG"):
        for path in ("/health/live", "/health/ready", "/docs", "/openapi.json"):
            assert ask(path) == 200
        for path in ("/sample", "/model"):
            assert [ask(path), ask(path, "x" * 20), ask(path, USER), ask(path, ADMIN)] == [401, 401, 200, 200]
        assert [ask("/metrics"), ask("/metrics", USER), ask("/metrics", ADMIN)] == [401, 403, 200]
        refused = guarded.post("/encode", content=b"junk", headers={"content-type": "application/json"})
        assert refused.status_code == 401  # before the body is looked at
        document = guarded.get("/openapi.json").json()
        assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
        assert document["paths"]["/encode"]["post"]["security"] == [{"key": []}]
        assert "security" not in document["paths"]["/health/ready"]["get"]
        assert {"401", "403"} <= document["paths"]["/metrics"]["get"]["responses"].keys()
        shown = json.dumps(guarded.get("/model", headers={"Authorization": f"Bearer {USER}"}).json()) + caplog.text
        assert USER not in shown and ADMIN not in shown


def test_keys_are_checked_below_a_root_path(guarded: Client) -> None:
    client = TestClient(guarded.app, root_path="/vae")
    assert client.get("/vae/sample").status_code == 401
    if isinstance(guarded, TestClient):  # the model of the other client answers on the loop of its server alone
        assert client.get("/vae/sample", headers={"Authorization": f"Bearer {USER}"}).status_code == 200
