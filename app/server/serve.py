"""The uvicorn server of one process: its configuration, its listener and its first line."""

import socket

import uvicorn
from fastapi import FastAPI

from app.settings import Settings
from model.errors import ConfigError

#: Seconds that a worker has to load its model when it takes the place of another.
WORKER_START_SECONDS = 120
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


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the address is in use, or does not belong to this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot listen on {host}:{port} ({error}); choose another with --port or --host") from error


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
