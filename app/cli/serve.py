"""`vae serve`: the service on one address, until it is told to stop."""

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from app.observability import logs
from app.service_links import service_links
from app.settings import PREFIX, Settings

log = logging.getLogger("vae")


def serve(
    run: Annotated[
        str | None, typer.Argument(help="A run, a checkpoint, or a shipped model's name. (default: fashion-mnist)")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; :: takes IPv6 and IPv4. (default: 127.0.0.1)"),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one. (default: 8000)")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. (default: auto)")] = None,
    workers: Annotated[int | None, typer.Option(help="Number of serving processes. (default: 1)")] = None,
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

    Every option is also an environment variable, VAE_PORT for --port; docs/settings.md lists the settings that are
    environment variables only.

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
    logs.configure(settings.log_level, settings.log_format)
    if links := service_links(os.environ, PREFIX):
        log.debug("environment: %s are variables of Kubernetes Services, not settings", ", ".join(sorted(links)))
    if settings.workers > 1:
        _serve_with_workers(settings)
    from app.inference.devices import choose_device
    from app.main import create_app
    from app.server.serve import Server, listen, server_config, url_of
    from model import checkpoint

    choose_device(settings.device)
    # Loaded before the server exists: an error of the model is then one line.
    loaded = checkpoint.load(Path(settings.model))
    listeners = listen(settings.host, settings.port)
    card, data = loaded.card, loaded.vae.config.data
    line = (
        f"vae-server serves {card.name} ({data.describe()}, latent {loaded.vae.config.latent}, "
        f"digest {loaded.digest[:12]}) at {url_of(listeners[0])}; open it in a browser, or /docs for the interface"
    )
    # uvicorn finishes the requests in progress, then raises the signal again for this handler, which was there
    # before its own. A stop that was asked for and went well is a success.
    for requested in (signal.SIGTERM, signal.SIGINT):
        signal.signal(requested, lambda *_: sys.exit(0))
    Server(server_config(settings, create_app(settings, loaded)), line).run(sockets=listeners)


def _serve_with_workers(settings: Settings) -> NoReturn:
    from app.server import workers
    from app.server.serve import listen, server_config, url_of

    listeners = listen(settings.host, settings.port)
    line = (
        f"vae-server serves {settings.model} by {settings.workers} workers at {url_of(listeners[0])}; open it in a "
        "browser, or /docs for the interface"
    )
    raise SystemExit(workers.run(settings, server_config(settings, workers.APPLICATION), listeners, line))
