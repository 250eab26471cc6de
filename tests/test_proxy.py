"""Two services behind the proxy of the Compose file, and Prometheus beside them, with a real engine."""

import io
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2
import numpy as np
import pytest

from tests.support.containers import COMPOSE, MISSING, ROOT, build, free_port, inspect, run, wait_healthy

pytestmark = [pytest.mark.docker, pytest.mark.long, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]

#: Stand-ins for the official images, of Debian's packages, where no variable names one that is there.
HAPROXY = """
ARG BASE_IMAGE
FROM $BASE_IMAGE
RUN apt-get update && apt-get install -y --no-install-recommends haproxy
USER haproxy
STOPSIGNAL SIGUSR1
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
"""
PROMETHEUS = """
ARG BASE_IMAGE
FROM $BASE_IMAGE
RUN apt-get update && apt-get install -y --no-install-recommends prometheus
RUN mkdir /prometheus && chown nobody /prometheus
USER nobody
ENTRYPOINT ["prometheus"]
"""


@dataclass
class Deployment:
    """The services of the profiles `proxy` and `monitoring`, but for Grafana."""

    project: str
    environment: dict[str, str]
    address: str
    prometheus: str

    def compose(self, *words: str) -> str:
        profiles = ("--profile", "proxy", "--profile", "monitoring")
        done = run(*COMPOSE, "-p", self.project, *profiles, *words, env=self.environment, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def container(self, service: str) -> str:
        return self.compose("ps", "-q", service)


def image(variable: str, dockerfile: str) -> str:
    """The one that the environment names, or a stand-in."""
    tag = f"vae-test-{variable.partition('_')[0].lower()}"
    return os.environ.get(variable) or build(tag, "-", input=dockerfile)


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    build("vae-server", ".")
    port, looking = free_port(), free_port()
    environment = {
        **os.environ,
        "PORT": str(port),
        "PROMETHEUS_PORT": str(looking),
        "HAPROXY_IMAGE": image("HAPROXY_IMAGE", HAPROXY),
        "PROMETHEUS_IMAGE": image("PROMETHEUS_IMAGE", PROMETHEUS),
        "VAE_MODEL": "fashion-mnist-mlp",
        "CPUS": "1",
    }
    found = Deployment(
        f"vae-proxy-{os.getpid()}", environment, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{looking}"
    )
    try:
        found.compose("up", "-d", "--no-build", "proxy", "prometheus")
        yield found
    finally:
        found.compose("down", "-v", "-t", "1")


def until(true: Callable[[], bool]) -> None:
    """Wait for it, a minute at most."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def npy(rows: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((rows, 28, 28), np.uint8))
    return file.getvalue()


#: Method, path, body and headers.
Call = tuple[str, str, bytes | None, dict[str, str]]
PNG, NPY = {"Content-Type": "image/png"}, {"Content-Type": "application/x-npy"}
PICTURE = (ROOT / "examples/ankle-boot.png").read_bytes()
SMALL: tuple[Call, ...] = (
    ("POST", "/encode", PICTURE, PNG),
    ("GET", "/sample?n=2", None, {}),
    ("POST", "/free-energy?samples=4", PICTURE, PNG),
    ("POST", "/reconstruct?format=png", npy(8), NPY),
)
#: More than the proxy can send a second time.
LARGE: Call = ("POST", "/encode", npy(256), NPY)


@dataclass
class Load:
    """What clients saw that called without a pause worth the name, each over a connection that is kept."""

    statuses: Counter[int] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)


@contextmanager
def load(address: str, calls: tuple[Call, ...]) -> Iterator[Load]:
    seen, end = Load(), threading.Event()

    def client(first: int) -> None:
        with httpx2.Client(base_url=address, timeout=30) as http:
            for turn in range(first, 10**9):
                if end.wait(0.02):
                    return
                method, path, body, headers = calls[turn % len(calls)]
                try:
                    answer = http.request(method, path, content=body, headers=headers)
                    seen.statuses[answer.status_code] += 1
                    if answer.status_code != 200:
                        seen.errors.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
                except httpx2.HTTPError as error:
                    seen.errors.append(f"{method} {path}: {error!r}")

    with ThreadPoolExecutor(6) as clients:
        running = [clients.submit(client, first) for first in range(6)]
        try:
            until(lambda: seen.statuses[200] > 50)
            yield seen
            before = seen.statuses[200]
            until(lambda: seen.statuses[200] > before + 50)
        finally:
            end.set()
    for done in running:
        done.result()


def test_both_services_work_behind_the_proxy(deployment: Deployment) -> None:
    with load(deployment.address, (*SMALL, LARGE)) as seen:
        for service in ("vae-a", "vae-b"):
            wait_healthy(deployment.container(service))
            until(lambda service=service: works(deployment, service))  # type: ignore[misc]
    assert seen.errors == []


def works(deployment: Deployment, service: str) -> bool:
    """Whether this service has encoded something, by its log."""
    said = run("docker", "logs", deployment.container(service))
    return "POST /encode 200" in said.stdout + said.stderr


def test_the_proxy_is_confined_and_keeps_its_numbers_and_theirs_to_itself(deployment: Deployment) -> None:
    for service in ("proxy", "prometheus"):
        limits = inspect(deployment.container(service))["HostConfig"]
        assert limits["ReadonlyRootfs"]
        assert limits["CapDrop"] == ["ALL"]
        assert limits["SecurityOpt"] == ["no-new-privileges:true"]
        assert len(limits["PortBindings"]) == 1
    for path in ("/metrics", "/%6Detrics", "/metrics?x=1", "/haproxy?stats", "/stats"):
        assert httpx2.get(f"{deployment.address}{path}").status_code == 404
    assert httpx2.get(f"{deployment.address}/metrics").headers["content-type"] == "application/problem+json"


def address_of(container: str) -> str:
    """Where it is on its network."""
    (network,) = inspect(container)["NetworkSettings"]["Networks"].values()
    return str(network["IPAddress"])


def replace(deployment: Deployment, name: str) -> None:
    deployment.compose("up", "-d", "--no-build", "--no-deps", "--force-recreate", name)


def replace_elsewhere(deployment: Deployment, name: str) -> None:
    """The same by hand; its address goes to somebody else meanwhile, so that it gets another."""
    deployment.compose("stop", name)
    deployment.compose("rm", "-f", name)
    (network,) = inspect(deployment.container("proxy"))["NetworkSettings"]["Networks"]
    squatter = f"{deployment.project}-squatter"
    taken = run("docker", "run", "-d", "--name", squatter, "--network", network, "vae-server", "sleep", "120")
    assert taken.returncode == 0, taken.stderr
    try:
        deployment.compose("up", "-d", "--no-build", "--no-deps", name)
    finally:
        run("docker", "rm", "-f", squatter)


def test_one_after_the_other_is_replaced_without_a_failed_request(deployment: Deployment) -> None:
    ways = {"vae-a": replace, "vae-b": replace_elsewhere}
    before = {name: deployment.container(name) for name in ways}
    address = address_of(before["vae-b"])
    with load(deployment.address, (*SMALL, LARGE)) as seen:
        for name, way in ways.items():
            way(deployment, name)
            wait_healthy(deployment.container(name))
            until(lambda name=name: works(deployment, name))  # type: ignore[misc]
    assert seen.errors == []
    assert set(seen.statuses) == {200}
    after = {name: deployment.container(name) for name in ways}
    assert not set(before.values()) & set(after.values())
    assert all(inspect(container)["State"]["Running"] for container in after.values())
    assert address_of(after["vae-b"]) != address


def test_what_a_killed_service_had_under_way_is_done_by_the_other(deployment: Deployment) -> None:
    with load(deployment.address, SMALL) as seen:
        container = deployment.container("vae-a")
        before = inspect(container)["State"]["StartedAt"]
        os.kill(inspect(container)["State"]["Pid"], signal.SIGKILL)
        until(lambda: bool(inspect(container)["State"]["StartedAt"] != before))
        wait_healthy(container)
    assert seen.errors == []
    proxy = inspect(deployment.container("proxy"))
    assert (proxy["State"]["Running"], proxy["RestartCount"]) == (True, 0)


def test_prometheus_finds_each_service_by_its_name(deployment: Deployment) -> None:
    def ready() -> set[str]:
        try:
            found = httpx2.get(f"{deployment.prometheus}/api/v1/query", params={"query": "vae_ready == 1"}).json()
        except httpx2.TransportError:  # it is still starting
            return set()
        return {sample["metric"]["instance"] for sample in found["data"]["result"]}

    until(lambda: ready() == {"vae-a", "vae-b"})
