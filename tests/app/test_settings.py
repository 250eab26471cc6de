"""Settings: precedence, validation, documentation."""

import os
from pathlib import Path

import pytest

from app.service_links import service_links
from app.settings import PREFIX, Settings
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


#: Variables that the kubelet sets for Services `vae`, `vae-server` (two ports, of IPv6) and `vae-port` of a namespace.
SERVICE_LINKS = {
    "VAE_SERVICE_HOST": "10.0.0.1",
    "VAE_SERVICE_PORT": "8000",
    "VAE_SERVICE_PORT_HTTP": "8000",
    "VAE_SERVICE_PORT_8001": "8001",
    "VAE_PORT": "tcp://10.0.0.1:8000",
    "VAE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "VAE_PORT_8000_TCP_PROTO": "tcp",
    "VAE_PORT_8000_TCP_PORT": "8000",
    "VAE_PORT_8000_TCP_ADDR": "10.0.0.1",
    "VAE_SERVER_SERVICE_HOST": "fd00:10::1",
    "VAE_SERVER_SERVICE_PORT": "80",
    "VAE_SERVER_SERVICE_PORT_H_T_T_P": "80",
    "VAE_SERVER_SERVICE_PORT_DNS": "53",
    "VAE_SERVER_PORT": "tcp://[fd00:10::1]:80",
    "VAE_SERVER_PORT_80_TCP": "tcp://[fd00:10::1]:80",
    "VAE_SERVER_PORT_80_TCP_PROTO": "tcp",
    "VAE_SERVER_PORT_80_TCP_PORT": "80",
    "VAE_SERVER_PORT_80_TCP_ADDR": "fd00:10::1",
    "VAE_SERVER_PORT_53_UDP": "udp://[fd00:10::1]:53",
    "VAE_SERVER_PORT_53_UDP_PROTO": "udp",
    "VAE_SERVER_PORT_53_UDP_PORT": "53",
    "VAE_SERVER_PORT_53_UDP_ADDR": "fd00:10::1",
    "VAE_PORT_SERVICE_HOST": "10.0.0.2",
    "VAE_PORT_SERVICE_PORT": "9",
    "VAE_PORT_PORT": "sctp://10.0.0.2:9",
    "VAE_PORT_PORT_9_SCTP": "sctp://10.0.0.2:9",
}


def test_variables_of_kubernetes_services_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in SERVICE_LINKS.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("VAE_MAX_ROWS", "77")
    for settings in (Settings.load(), Settings()):
        assert (settings.port, settings.host, settings.max_rows) == (8000, "127.0.0.1", 77)
    assert Settings.load(port=8002).port == 8002
    assert service_links(os.environ, PREFIX) == SERVICE_LINKS.keys()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("VAE_SERVICE_HOST", "localhost"),
        ("VAE_SERVICE_PORT", "http"),
        ("VAE_SERVICE_PORTS", "8000"),
        ("VAE_SERVER_PORT", "8000"),
        ("VAE_PORT_8000", "tcp://10.0.0.1:8000"),
        ("VAE_PORT_8000_TCP_PROTO", "http"),
        ("VAE_PORT_8000_TCP_NAME", "vae"),
        ("VAE_PORT_8000_ICMP", "icmp://10.0.0.1:8000"),
        ("vae_service_host", "10.0.0.1"),
    ],
)
def test_other_variables_of_like_names_are_errors(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigError, match=f"{name} is not a setting"):
        Settings.load()


@pytest.mark.parametrize("text", ["http://10.0.0.1:8000", "tcp://10.0.0.1", "tcp://here:8000", ""])
def test_a_port_of_another_form_is_an_error(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("VAE_PORT", text)
    with pytest.raises(ConfigError, match="port: "):
        Settings.load()


def test_value_out_of_range_raises_an_error_that_names_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_PORT", "99999")
    with pytest.raises(ConfigError, match=r"port: .*99999"):
        Settings.load()


@pytest.mark.parametrize(
    ("text", "path"),
    [("", None), ("/", None), ("/vae", "/vae"), ("/vae/", "/vae"), ("/a.b/~c_d-1:x@y", "/a.b/~c_d-1:x@y")],
)
def test_root_paths(monkeypatch: pytest.MonkeyPatch, text: str, path: str | None) -> None:
    monkeypatch.setenv("VAE_ROOT_PATH", text)
    assert Settings.load().root_path == path


@pytest.mark.parametrize(
    "text",
    ["vae", "//vae", "/a//b", "/a b", "/a?b", "/a#b", "/a%20b", "/../a", "/a/.", "/\u00e4", "http://here", "/a\n"],
)
def test_what_is_no_root_path_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("VAE_ROOT_PATH", text)
    with pytest.raises(ConfigError, match=r"root_path: '.+' is not a path; give one such as /vae"):
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
