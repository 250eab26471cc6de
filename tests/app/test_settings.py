"""Settings: precedence, validation, documentation."""

from pathlib import Path

import pytest

from app.settings import Settings
from model.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_command_line_overrides_environment_overrides_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load().port == 8000
    monkeypatch.setenv("VAE_PORT", "8001")
    assert Settings.load(port=None).port == 8001
    assert Settings.load(port=8002).port == 8002


def test_unknown_variable_raises_an_error_that_lists_all_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_MAX_ROW", "5")
    with pytest.raises(ConfigError, match=r"VAE_MAX_ROW is not a setting; .*VAE_MAX_ROWS"):
        Settings.load()


def test_value_out_of_range_raises_an_error_that_names_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_PORT", "99999")
    with pytest.raises(ConfigError, match=r"port: .*99999"):
        Settings.load()


def test_the_variable_of_the_data_folder_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_DATA", "/data")
    assert Settings.load().port == 8000


@pytest.mark.parametrize("name", Settings.model_fields)
def test_documentation_lists_every_setting(name: str) -> None:
    field = Settings.model_fields[name]
    assert field.description
    line = f"| `VAE_{name.upper()}` | {_default(field.default)} | {field.description} |"
    assert line in (ROOT / "docs/settings.md").read_text()


def _default(value: object) -> str:
    return "" if value is None else f"`{value}`"
