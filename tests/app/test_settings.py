"""Settings: where they come from, and that each is documented."""

from pathlib import Path

import pytest

from app.settings import Settings
from model.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_command_line_over_environment_over_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load().port == 8000
    monkeypatch.setenv("VAE_PORT", "8001")
    assert Settings.load(port=None).port == 8001
    assert Settings.load(port=8002).port == 8002


def test_a_misspelt_variable_is_an_error_that_names_the_right_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_MAX_ROW", "5")
    with pytest.raises(ConfigError, match=r"VAE_MAX_ROW is not a setting; .*VAE_MAX_ROWS"):
        Settings.load()


def test_a_value_out_of_range_names_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_PORT", "99999")
    with pytest.raises(ConfigError, match=r"port: .*99999"):
        Settings.load()


def test_the_folder_of_data_is_not_mistaken_for_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_DATA", "/data")
    assert Settings.load().port == 8000


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described_and_in_the_readme(name: str) -> None:
    field = Settings.model_fields[name]
    assert field.description
    line = f"| `VAE_{name.upper()}` | {_default(field.default)} | {field.description} |"
    assert line in (ROOT / "README.md").read_text()


def _default(value: object) -> str:
    return "" if value is None else f"`{value}`"
