"""`vae serve`: the service on one address, until it is told to stop."""

import signal
import socket
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
import uvicorn
from fastapi import FastAPI

from app.settings import Settings
from model.errors import ConfigError

#: Seconds that a worker has to load its model when it is to take the place of another.
START = 120


def serve(
    run: Annotated[
        str | None, typer.Argument(help="A run, a checkpoint, or a shipped model's name. (default: fashion-mnist)")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. (default: 127.0.0.1)")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one. (default: 8000)")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. (default: auto)")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that serve. (default: 1)")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of a worker's model. (default: its share of the cores)")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="auto, torch or onnxruntime. (default: auto)")] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, or bfloat16 for encoding and decoding. (default: float32)")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error. (default: info)")] = None,
) -> None:
    """Serve a model over HTTP.

    Every setting is also an environment variable, VAE_PORT for --port; the README lists those that are only that.

    Example: vae serve runs/fashion --port 8080
    """
    settings = Settings.load(
        model=run,
        host=host,
        port=port,
        device=device,
        workers=workers,
        threads=threads,
        engine=engine,
        precision=precision,
        log_level=log_level,
    )
    settings.configure_logging()
    if settings.workers > 1:
        _serve_with_workers(settings)
    from app.inference.devices import choose_device
    from app.main import create_app
    from model import checkpoint

    choose_device(settings.device)
    # Loaded here already: what is wrong with a model is then one line, before there is a server.
    loaded = checkpoint.load(Path(settings.model))
    listener = listen(settings.host, settings.port)
    card, data = loaded.card, loaded.vae.config.data
    line = (
        f"vae-server serves {card.name} ({data.describe()}, latent {loaded.vae.config.latent}, "
        f"digest {loaded.digest[:12]}) at {_address(listener)}; open it in a browser, or /docs for the interface"
    )
    # uvicorn finishes what is under way, then raises the signal again for whoever was there before it: that is us, and
    # a stop that was asked for and went well is a success.
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, lambda *_: sys.exit(0))
    _Server(server_config(settings, create_app(settings, loaded)), line).run(sockets=[listener])


def _serve_with_workers(settings: Settings) -> NoReturn:
    from app.server import workers

    listener = listen(settings.host, settings.port)
    line = (
        f"vae-server serves {settings.model} by {settings.workers} workers at {_address(listener)}; open it in a "
        "browser, or /docs for the interface"
    )
    raise SystemExit(workers.run(settings, server_config(settings, workers.APPLICATION), listener, line))


def server_config(settings: Settings, application: FastAPI | str) -> uvicorn.Config:
    """What uvicorn is to run: an application, or the name of what makes one in each worker."""
    return uvicorn.Config(
        application,
        factory=isinstance(application, str),
        http="app.fastpath.protocol:Protocol",
        workers=settings.workers,
        access_log=False,
        proxy_headers=False,  # nothing here asks who the client is
        log_config=None,
        log_level="warning",
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=settings.shutdown_timeout,
        timeout_worker_healthcheck=START,
    )


def _address(listener: socket.socket) -> str:
    address, port = listener.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the address is in use, or is none of this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot listen on {host}:{port} ({error}); choose another with --port or --host") from error


class _Server(uvicorn.Server):
    """uvicorn, saying one line of its own once it answers."""

    def __init__(self, config: uvicorn.Config, line: str) -> None:
        super().__init__(config)
        self.line = line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self.line, flush=True)
