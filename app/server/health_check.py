"""The health check of a container: `python -m app.server.health_check` succeeds if the service in it is ready."""

import argparse
import http.client
import ipaddress
import sys
from collections.abc import Sequence
from pathlib import Path

from app.settings import Settings

#: Seconds to answer.
TIMEOUT_SECONDS = 4.0
#: The command of the container, its words separated by zero bytes.
COMMAND = Path("/proc/1/cmdline")


def serve_options(words: Sequence[str]) -> dict[str, str | None]:
    """The options of a `vae serve` command that say where it listens, which come before the environment.

    >>> serve_options(["python", "vae", "serve", "--port=9000", "--workers", "2"])
    {'host': None, 'port': '9000'}
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--host")
    parser.add_argument("--port")
    options = words[words.index("serve") + 1 :] if "serve" in words else []
    return vars(parser.parse_known_args(options)[0])


def reachable(host: str) -> list[str]:
    """Addresses at which a process of this machine can reach a service that listens on a host."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return [host]
    if not address.is_unspecified:
        return [host]
    return ["127.0.0.1"] if address.version == 4 else ["::1", "127.0.0.1"]


def is_ready(host: str, port: int) -> bool:
    """True if the service there answers that it is ready. No proxy is asked, whatever the environment says."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> None:
    """Check the service of this container. The exit status is 0 if it is ready, else 1."""
    words = COMMAND.read_bytes().decode(errors="replace").split("\0") if COMMAND.exists() else []
    settings = Settings.load(**serve_options(words))
    sys.exit(not any(is_ready(host, settings.port) for host in reachable(settings.host)))


if __name__ == "__main__":
    main()
