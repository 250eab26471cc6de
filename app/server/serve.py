"""The uvicorn server of one process: its configuration, its listeners and its first line."""

import errno
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI

from app.settings import Settings
from model.errors import ConfigError

#: Seconds that a worker has to load its model when it takes the place of another.
WORKER_START_SECONDS = 120
#: Errors of an address that this machine lacks, as where IPv6 is turned off.
NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
#: uvicorn's protocol classes, by the setting `http`.
PROTOCOLS = {"fast": "app.fastpath.protocol:FastProtocol", "standard": "app.server.limits:LimitedProtocol"}


def server_config(settings: Settings, application: FastAPI | str) -> uvicorn.Config:
    """The configuration of uvicorn for an application, or for the name of what makes one in each worker."""
    return uvicorn.Config(
        application,
        factory=isinstance(application, str),
        http=PROTOCOLS[settings.http],
        ws="none",
        workers=settings.workers,
        access_log=False,
        proxy_headers=False,  # the service does not use the client's address
        log_config=None,
        log_level="warning",
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=settings.shutdown_timeout,
        timeout_worker_healthcheck=WORKER_START_SECONDS,
    )


def listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on all addresses of a host, with one port; `::` also takes IPv4.

    Raises:
        ConfigError: an address is in use, or none belongs to this machine.
    """
    listeners: list[socket.socket] = []
    try:
        missing: OSError | None = None
        for family, address in _addresses(host, port):
            try:
                # If port 0 was asked for, the first socket has chosen one for the others.
                port = listeners[0].getsockname()[1] if listeners else port
                listeners.append(_listener(family, (address[0], port, *address[2:])))
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
                missing = error
        if missing and not listeners:
            raise missing
    except (OSError, UnicodeError) as error:
        for listener in listeners:
            listener.close()
        raise ConfigError(f"cannot listen on {host}:{port} ({error}); choose another with --port or --host") from error
    return listeners


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    """Family and address of each address of a host, once."""
    found = [(info[0], info[4]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if any(address[0] == "::" for _, address in found) and not socket.has_dualstack_ipv6():
        found.append((socket.AF_INET, ("0.0.0.0", port)))  # noqa: S104 as `::` asks for
    return list(dict.fromkeys(found))


def _listener(family: int, address: tuple[Any, ...]) -> socket.socket:
    both = address[0] == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(address, family=family, backlog=2048, dualstack_ipv6=both)


def url_of(listener: socket.socket) -> str:
    """The address of a listening socket, as a browser takes it."""
    address, port = listener.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


class Server(uvicorn.Server):
    """uvicorn, printing one line once it answers."""

    def __init__(self, config: uvicorn.Config, line: str) -> None:
        super().__init__(config)
        self.line = line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self.line, flush=True)
