"""Who may call, with keys and without."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.api.keys import Access, Keys, read_keys
from app.api.problems import Forbidden, Unauthorized
from model.checkpoint import Checkpoint
from model.errors import ConfigError
from tests.conftest import client_of

USER, OTHER, ADMIN = "user-key-0123456789", "other/key+0123456789==", "admin-key-0123456789"
EVERYBODY: Access = "everybody"
USERS: Access = "users"
ADMINISTRATORS: Access = "administrators"


def test_without_keys_everybody_may() -> None:
    keys = Keys()
    for access in (EVERYBODY, USERS, ADMINISTRATORS):
        assert not keys.guards(access)
        keys.check(access, "")


def test_users_may_use_and_administrators_may_do_all() -> None:
    keys = Keys([USER, OTHER], [ADMIN])
    for key in (USER, OTHER, ADMIN):
        keys.check(USERS, f"Bearer {key}")
        keys.check(USERS, f"bearer  {key} ")
    keys.check(ADMINISTRATORS, f"Bearer {ADMIN}")
    with pytest.raises(Forbidden, match="administrators"):
        keys.check(ADMINISTRATORS, f"Bearer {USER}")
    keys.check(EVERYBODY, "")


@pytest.mark.parametrize(
    "authorization",
    ["", USER, "Bearer", "Bearer ", f"Basic {USER}", f"Bearer {USER[:-1]}", f"Bearer {USER}x", "Bearer \udcff\xe9"],
)
def test_anything_else_is_unauthorized(authorization: str) -> None:
    for access in (USERS, ADMINISTRATORS):
        with pytest.raises(Unauthorized) as refused:
            Keys([USER], [ADMIN]).check(access, authorization)
        assert USER not in str(refused.value)


def test_with_administrators_alone_the_model_is_for_everybody() -> None:
    keys = Keys([], [ADMIN])
    keys.check(USERS, "")
    with pytest.raises(Unauthorized):
        keys.check(ADMINISTRATORS, "")
    # And with users alone, nobody is an administrator.
    with pytest.raises(Forbidden):
        Keys([USER]).check(ADMINISTRATORS, f"Bearer {USER}")


def test_keys_are_read_from_the_environment_or_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert read_keys("VAE_API_KEYS") == []
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
def test_a_file_without_good_keys_is_refused_and_not_shown(
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
def guarded(loaded: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setenv("VAE_API_KEYS", USER)
    monkeypatch.setenv("VAE_ADMIN_KEYS", ADMIN)
    return client_of(loaded("grey-mlp-discretized"))


def test_the_service_asks_for_keys(guarded: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    def ask(path: str, key: str = "") -> int:
        answer = guarded.get(path, headers={"Authorization": f"Bearer {key}"} if key else {})
        if answer.status_code in {401, 403}:
            assert answer.headers["content-type"] == "application/problem+json"
            assert (answer.headers.get("www-authenticate") == "Bearer") == (answer.status_code == 401)
        return answer.status_code

    with guarded, caplog.at_level("DEBUG"):
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


def test_the_same_holds_where_the_application_stands_under_a_path(guarded: TestClient) -> None:
    with TestClient(guarded.app, root_path="/vae", raise_server_exceptions=False) as client:
        assert client.get("/vae/sample").status_code == 401
        assert client.get("/vae/sample", headers={"Authorization": f"Bearer {USER}"}).status_code == 200
