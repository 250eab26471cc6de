"""Addresses that a service listens on, and the health check of the image."""

import errno
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.server import health_check as check
from app.server.health_check import reachable, serve_options
from app.server.serve import listen, url_of
from model.errors import ConfigError
from tests.support.processes import served

DOCKERFILE = (Path(__file__).parents[3] / "Dockerfile").read_text()
V4, V6 = "127.0.0.1", "::1"
#: Loopback addresses that reach a service, by its host.
REACHED = {"::": {V4, V6}, "0.0.0.0": {V4}, V4: {V4}, V6: {V6}, "127.0.0.2": {"127.0.0.2"}}


def has_ipv6() -> bool:
    try:
        socket.create_server((V6, 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
HOSTS = [pytest.param(host, marks=ipv6 if ":" in host else ()) for host in REACHED]


def accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("dual", [True, False], ids=["dual stack", "a socket each"])
@pytest.mark.parametrize("host", HOSTS)
def test_a_host_is_all_of_its_addresses(host: str, dual: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not dual:
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    listeners = listen(host, 0)
    try:
        port = listeners[0].getsockname()[1]
        assert {other for other in (V4, V6, "127.0.0.2") if accepts(other, port)} - REACHED[host] <= {"127.0.0.2"}
        assert all(accepts(other, port) for other in REACHED[host])
        assert url_of(listeners[0]) == (f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
    finally:
        for listener in listeners:
            listener.close()


def names(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Have every name stand for these addresses."""
    infos = [
        (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))
        for address in addresses
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)


def test_a_name_is_all_of_its_addresses_that_this_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, "192.0.2.1", "127.0.0.1", "127.0.0.1", "127.0.0.3")
    listeners = listen("here", 0)
    found = [listener.getsockname() for listener in listeners]
    for listener in listeners:
        listener.close()
    assert [address for address, _ in found] == ["127.0.0.1", "127.0.0.3"]
    assert len({port for _, port in found}) == 1


def test_a_name_of_which_one_address_is_in_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.3", 0)) as taken:
        names(monkeypatch, "127.0.0.1", "127.0.0.3")
        with pytest.raises(ConfigError, match=r"cannot listen on here:.*choose another"):
            listen("here", taken.getsockname()[1])
        monkeypatch.undo()
        (free,) = listen("127.0.0.1", taken.getsockname()[1])
        free.close()


def test_every_address_is_ipv4_where_there_is_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    create = socket.create_server

    def without_ipv6(address: tuple[str, int], *, family: int, **options: object) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return create(address, family=family, backlog=5)

    monkeypatch.setattr(socket, "create_server", without_ipv6)
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    (listener,) = listen("::", 0)
    with listener:
        assert listener.getsockname()[0] == "0.0.0.0"
        assert accepts(V4, listener.getsockname()[1])
    with pytest.raises(ConfigError, match="cannot listen on ::1:0"):
        listen("::1", 0)


def health_check(**environment: str) -> int:
    """Exit status of the health check of the image."""
    (command,) = re.findall(r"^HEALTHCHECK .*\\\n +CMD (\[.+\])$", DOCKERFILE, re.MULTILINE)
    words = json.loads(command)
    assert words[0] == "python"
    environ = {**os.environ, "http_proxy": "http://127.0.0.1:9", **environment}
    return subprocess.run([sys.executable, *words[1:]], env=environ, capture_output=True, check=False).returncode


@pytest.mark.parametrize("host", HOSTS)
def test_the_health_check_of_the_image_is_true_for_every_host(saved: Callable[[str], Path], host: str) -> None:
    with served(saved("table-mlp-gaussian"), VAE_HOST=host) as (address, process):
        port = address.rsplit(":", 1)[1]
        assert health_check(VAE_HOST=host, VAE_PORT=port) == 0
        process.kill()
        process.wait(30)
        assert health_check(VAE_HOST=host, VAE_PORT=port) == 1


@pytest.mark.parametrize(("text", "port"), [("tcp://10.0.0.1:9000", 8000), ("9000", 9000)])
def test_the_health_check_asks_the_port_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, port: int
) -> None:
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(check, "is_ready", lambda *where: asked.append(where))
    monkeypatch.setattr(check, "COMMAND", tmp_path / "nothing")
    monkeypatch.setenv("VAE_PORT", text)
    with pytest.raises(SystemExit) as ended:
        check.main()
    assert ended.value.code
    assert asked == [(V4, port)]


@pytest.mark.parametrize(
    ("command", "host", "port"),
    [
        ("python /opt/vae/bin/vae serve", None, None),
        ("python /opt/vae/bin/vae serve /models/mine --port 9000 --host ::1", "::1", "9000"),
        ("/sbin/docker-init -- vae serve --port=9000", None, "9000"),
        ("/pause --port 9000", None, None),
        ("", None, None),
    ],
)
def test_options_of_the_command_come_before_the_environment(command: str, host: str | None, port: str | None) -> None:
    assert serve_options(command.split()) == {"host": host, "port": port}


def test_hosts_that_are_no_address_of_one_machine_are_reached_by_loopback() -> None:
    assert reachable("0.0.0.0") == [V4]
    assert reachable("::") == [V6, V4]
    assert [reachable(host) for host in ("10.0.0.7", "fd00::7", "localhost")] == [
        ["10.0.0.7"],
        ["fd00::7"],
        ["localhost"],
    ]
