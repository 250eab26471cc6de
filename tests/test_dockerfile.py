"""What the image is made of, and what the Compose files hand on: all that can be said without an engine."""

import re
from pathlib import Path

from app.settings import ADMIN_KEYS, API_KEYS, PREFIX, Settings

ROOT = Path(__file__).parents[1]
DOCKERFILE, IGNORED = (ROOT / "Dockerfile").read_text(), (ROOT / ".dockerignore").read_text()
COMPOSE, KEYS = (ROOT / "docker-compose.yml").read_text(), (ROOT / "docker-compose.keys.yml").read_text()
PINNED = re.compile(r"python:3\.\d+\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}")


def test_the_base_is_one_python_on_one_debian_to_the_byte() -> None:
    (given,) = re.findall(r"^ARG BASE_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert PINNED.fullmatch(given)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${BASE_IMAGE}"}
    assert re.findall(r"\$\{BASE_IMAGE:-(\S+)\}$", COMPOSE, re.MULTILINE) == [given]


def test_what_is_installed_is_pinned_too() -> None:
    for command in re.findall(r"pip install (.+)", DOCKERFILE):
        assert "--constraint constraints.txt" in command
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"(#.*|[\w.-]+==[\w.+]+( ; .+)?)?", line.strip()), line


def test_the_image_is_given_nothing_but_what_it_needs() -> None:
    assert IGNORED.splitlines()[0] == "*"
    taken = {line.removeprefix("!") for line in IGNORED.splitlines() if line.startswith("!")}
    assert taken == {"app", "model", "constraints.txt", "pyproject.toml", "README.md", "LICENSE"}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert taken == {name for line in copied for name in line.split()}
    # Nothing that is given to a build stays in the image that is run.
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert "ARG" not in final
    assert re.findall(r"^COPY (.+)$", final, re.MULTILINE) == ["--from=build /opt/vae /opt/vae"]


def test_every_setting_can_be_given_to_compose() -> None:
    taken = set(re.findall(r"^    (VAE_\w+):", COMPOSE, re.MULTILINE))
    # Where it listens is Compose's own business: HOST and PORT.
    assert taken == {PREFIX + name.upper() for name in Settings.model_fields if name not in {"host", "port"}}
    assert set(re.findall(r"^    (VAE_\w+): /run/secrets/", KEYS, re.MULTILINE)) == {
        f"{API_KEYS}_FILE",
        f"{ADMIN_KEYS}_FILE",
    }
