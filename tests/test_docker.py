"""The image and the Compose file, with a real engine: built, started, used through the published port, stopped."""

import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.support.containers import COMPOSE, MISSING, ROOT, base, build, free_port, inspect, run, wait_healthy

#: What no image may hold, wherever it was when the image was built.
SECRET = "decoy-d41f8c1b5a"
#: Files that lie about where an image is built, and are nobody's business: in the folder, and among what is copied.
DECOYS = (
    *(".env", ".netrc", ".git/config", "id_rsa", "server.pem", "pip.conf", "runs/mine/notes.txt", "tests/token.txt"),
    *("app/.env", "app/id_rsa", "app/server.pem", "app/codecs/.netrc", "app/runs/notes.txt", "app/pip.conf"),
    *("model/.git/config", "model/pretrained/fashion-mnist/.env", "model/pretrained/fashion-mnist/server.key"),
)
#: Names that no file of the image has, beside those of its base.
UNWANTED = re.compile(
    r"(^|/)(\.git|\.env|\.netrc|\.cache|pip\.conf|runs|tests|id_rsa|pip)(/|$)|\.(pem|key)$|^(root|home|src)/."
)


pytestmark = [pytest.mark.docker, pytest.mark.long, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image, built as the README says where secrets lie about; with the host's network, where its base is too."""
    folder = tmp_path_factory.mktemp("built") / "project"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "__pycache__", "runs", "benchmarks"))
    shutil.copy(ROOT / ".dockerignore", folder)
    for name in DECOYS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"password = {SECRET}\n")
    secrets = ("VAE_API_KEYS", "VAE_ADMIN_KEYS", "PIP_INDEX_URL", "HTTP_PROXY_PASSWORD", "AWS_SECRET_ACCESS_KEY")
    env = {**os.environ, **dict.fromkeys(secrets, f"https://{SECRET}@127.0.0.1/{SECRET}")}
    return build("vae-server", ".", cwd=folder, env=env)


@contextmanager
def composed(*files: str, **variables: str) -> Iterator[tuple[str, str]]:
    """The address of the service that compose started with these files, and the id of its container."""
    port = free_port()
    compose = [*COMPOSE, *(part for file in files for part in ("-f", file)), "-p", f"vae-test-{os.getpid()}-{port}"]
    env = {**os.environ, **variables, "PORT": str(port)}
    up = run(*compose, "up", "-d", "--no-build", env=env)
    try:
        assert up.returncode == 0, up.stderr
        container = run(*compose, "ps", "-q", "vae", env=env).stdout.strip()
        yield f"http://127.0.0.1:{port}", container
    finally:
        run(*compose, "down", "-v", "-t", "40", env=env)


@pytest.fixture(scope="module")
def service(image: str) -> Iterator[tuple[str, str]]:
    """The service as `docker compose up` starts it, with one setting from outside."""
    with composed("docker-compose.yml", VAE_MAX_ROWS="77") as started:
        yield started


def test_the_image_is_small_and_runs_as_nobody_in_particular(image: str) -> None:
    about = inspect(image)
    assert about["Size"] - inspect(base())["Size"] <= 1.1e9
    assert about["Config"]["User"] == "10001:10001"
    assert about["Config"]["Healthcheck"]


def test_no_layer_holds_a_secret_nor_what_the_service_does_not_need(image: str, tmp_path: Path) -> None:
    about = json.dumps(inspect(image)) + run("docker", "history", "--no-trunc", image).stdout
    # An index of packages may have a password in its address.
    assert SECRET not in about and "TORCH_INDEX" not in about
    beneath = len(inspect(base())["RootFS"]["Layers"])
    assert run("docker", "save", "-o", str(tmp_path / "image.tar"), image).returncode == 0
    searched = 0
    with tarfile.open(tmp_path / "image.tar") as saved:
        for member in saved.getmembers():
            assert not (member.size < 1 << 24 and SECRET in repr(read(saved, member))), member.name
        (manifest,) = json.loads(read(saved, saved.getmember("manifest.json")))
        assert len(manifest["Layers"]) == len(inspect(image)["RootFS"]["Layers"]) > beneath
        for index, name in enumerate(manifest["Layers"]):
            with tarfile.open(fileobj=saved.extractfile(name)) as layer:
                for member in layer:
                    assert index < beneath or not UNWANTED.search(member.name), member.name
                    assert SECRET.encode() not in read(layer, member), member.name
                    searched += member.isfile()
    (tmp_path / "image.tar").unlink()
    assert searched > 1000


def read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """What a member holds, if it is a file."""
    file = archive.extractfile(member) if member.isfile() else None
    return file.read() if file else b""


def test_compose_serves_and_turns_healthy(service: tuple[str, str]) -> None:
    address, container = service
    wait_healthy(container)
    assert httpx2.get(f"{address}/model").json()["limits"]["max_rows"] == 77
    # What is not set outside is not set inside, not even to nothing.
    environment = run("docker", "exec", container, "env").stdout.splitlines()
    assert sorted(line for line in environment if line.startswith("VAE_")) == [
        "VAE_HOST=::",
        "VAE_MAX_ROWS=77",
        "VAE_MODEL=fashion-mnist",
        "VAE_PORT=8000",
    ]


def test_it_is_confined(service: tuple[str, str]) -> None:
    _, container = service

    def inside(*command: str) -> "subprocess.CompletedProcess[str]":
        return run("docker", "exec", container, *command)

    limits = inspect(container)["HostConfig"]
    assert limits["ReadonlyRootfs"]
    assert limits["CapDrop"] == ["ALL"]
    assert limits["SecurityOpt"] == ["no-new-privileges:true"]
    assert limits["Memory"] > 0
    assert limits["NanoCpus"] > 0
    status = dict(line.split(":\t", 1) for line in inside("cat", "/proc/1/status").stdout.splitlines())
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[capabilities], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Uid"].split() == status["Gid"].split() == ["10001"] * 4
    assert inside("touch", "/tmp/x").returncode == 0
    assert inside("touch", "/opt/vae/x").returncode != 0
    # But for what is in memory, there is nowhere to write to.
    writable = inside("find", "/", "-path", "/proc", "-prune", "-o", "-type", "d", "-writable", "-print").stdout.split()
    assert {"/tmp"} <= {*writable} <= {"/tmp", "/dev/shm", "/dev/mqueue"}


def test_an_image_is_encoded_through_the_published_port(service: tuple[str, str]) -> None:
    address, _ = service
    body = (ROOT / "examples/ankle-boot.png").read_bytes()
    response = httpx2.post(f"{address}/encode", content=body, headers={"Content-Type": "image/png"})
    assert response.status_code == 200
    card = httpx2.get(f"{address}/model").json()
    assert card["name"] == "fashion-mnist"
    assert len(response.json()["mean"][0]) == card["latent"]


def test_keys_come_as_secrets_and_are_never_shown(image: str, tmp_path: Path) -> None:
    key, admin = "a-key-of-a-client-0123456789", "a-key-of-an-administrator-0123456789"
    for name, text in (("api", key), ("admin", admin)):
        (tmp_path / name).write_text(f"# given out for a test\n{text}\n")
        (tmp_path / name).chmod(0o644)
    files = ("docker-compose.yml", "docker-compose.keys.yml")
    with composed(*files, API_KEYS=str(tmp_path / "api"), ADMIN_KEYS=str(tmp_path / "admin")) as (address, container):
        wait_healthy(container)

        def ask(path: str, key: str = "") -> httpx2.Response:
            return httpx2.get(f"{address}{path}", headers={"Authorization": f"Bearer {key}"} if key else {})

        assert [ask("/sample").status_code, ask("/sample", "x" * 20).status_code] == [401, 401]
        assert [ask("/sample", key).status_code, ask("/metrics", key).status_code] == [200, 403]
        answers = [ask("/model", key), ask("/metrics", admin), ask("/openapi.json"), ask("/health/ready")]
        assert {answer.status_code for answer in answers} == {200}
        logs = run("docker", "logs", container)
        assert "/sample" in logs.stdout + logs.stderr
        shown = "".join(answer.text for answer in answers) + logs.stdout + logs.stderr + json.dumps(inspect(container))
        assert key not in shown and admin not in shown
    assert run(*COMPOSE, "-f", files[0], "-f", files[1], "config").returncode != 0, (
        "keys are needed where they are asked for"
    )


def test_it_stops_cleanly_when_told_to(service: tuple[str, str]) -> None:
    _, container = service
    assert run("docker", "stop", "-t", "30", container).returncode == 0
    state = inspect(container)["State"]
    assert state["ExitCode"] == 0, run("docker", "logs", container)
    assert not state["OOMKilled"]
