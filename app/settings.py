"""All settings of the service, in one frozen object: command line > environment (`VAE_*`) > default."""

import os
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from model.errors import ConfigError, explain

EngineName = Literal["auto", "torch", "onnxruntime"]
PrecisionName = Literal["float32", "bfloat16"]
PREFIX = "VAE_"
#: Keys of clients, and of administrators; or with _FILE behind it, where they are. No settings: nothing shows them.
API_KEYS, ADMIN_KEYS = "VAE_API_KEYS", "VAE_ADMIN_KEYS"
#: Read by `app.api.keys`, and by `model.datasets`.
ELSEWHERE = frozenset({"VAE_DATA", *(name + end for name in (API_KEYS, ADMIN_KEYS) for end in ("", "_FILE"))})


class Settings(BaseSettings):
    """What the service is told at its start. Each field is an environment variable: `max_rows` is `VAE_MAX_ROWS`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    model: Annotated[str, Field(description="Folder of a run or checkpoint, or the name of a shipped model.")] = (
        "fashion-mnist"
    )
    host: Annotated[str, Field(description="Address to listen on.")] = "127.0.0.1"
    http: Annotated[
        Literal["fast", "standard"],
        Field(description="fast, with a shortcut past ASGI for small requests; or standard, uvicorn's own protocol."),
    ] = "fast"
    port: Annotated[int, Field(description="Port to listen on; 0 takes a free one.", ge=0, le=65535)] = 8000
    device: Annotated[str, Field(description="auto, cpu or cuda; auto takes cuda where there is one.")] = "auto"
    workers: Annotated[int, Field(description="Processes that serve, each with a model of its own.", ge=1)] = 1
    threads: Annotated[
        int | None, Field(description="Threads of a worker's model; by default its share of the cores.", ge=1)
    ] = None
    engine: Annotated[
        EngineName, Field(description="auto, torch or onnxruntime; auto takes the faster where it agrees with torch.")
    ] = "auto"
    precision: Annotated[
        PrecisionName, Field(description="float32, or bfloat16 for encoding and decoding; /model tells its error.")
    ] = "float32"
    score_precision: Annotated[PrecisionName, Field(description="The same for free energies and all they need.")] = (
        "float32"
    )
    max_body_bytes: Annotated[int, Field(description="Largest body of a request, in bytes.", ge=1024)] = 32 << 20
    max_rows: Annotated[int, Field(description="Most rows (inputs, latents, samples) of a request.", ge=1)] = 1024
    max_samples: Annotated[int, Field(description="Most draws per input of a free energy.", ge=1)] = 5000
    max_work: Annotated[int, Field(description="Most rows x samples x (1 + refine) of a request.", ge=1)] = 65536
    max_pixels: Annotated[
        int, Field(description="Most pixels of a request's images together, before they are resized.", ge=1)
    ] = 1 << 25
    batch_rows: Annotated[
        int | None, Field(description="Most rows in one call of the model; by default 64 to 256, by its speed.", ge=1)
    ] = None
    queue_rows: Annotated[int, Field(description="Most rows ahead of a request; beyond, 429.", ge=1)] = 1 << 14
    queue_seconds: Annotated[
        float, Field(description="Most seconds of work ahead of a request; beyond, 429.", gt=0)
    ] = 1.0
    queue_bytes: Annotated[
        int, Field(description="Most bytes of bodies that are read or worked on; beyond, 429.", ge=1)
    ] = 1 << 27
    body_timeout: Annotated[float, Field(description="Seconds a client may take to send its body.", gt=0)] = 30.0
    keep_alive: Annotated[
        int, Field(description="Seconds an idle connection stays open; more than a proxy in front keeps it.", ge=1)
    ] = 75
    deadline: Annotated[float, Field(description="Seconds a request may wait for and use the model.", gt=0)] = 60.0
    hang_timeout: Annotated[
        float, Field(description="Seconds of one call of the model after which it counts as hung.", gt=0)
    ] = 60.0
    grace: Annotated[
        float, Field(description="Seconds from SIGTERM, when readiness ends, to the end of new work.", ge=0)
    ] = 5.0
    shutdown_timeout: Annotated[int, Field(description="Seconds that work under way may take to end.", ge=0)] = 30
    reload: Annotated[bool, Field(description="Whether POST /model/reload may load the model anew.")] = False
    cors_origins: Annotated[
        str | None, Field(description="Origins of web pages that may call, commas between them; * is any.")
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="Least severe log line shown.")
    ] = "info"
    log_format: Annotated[
        Literal["human", "json"], Field(description="human, or json: an object a line, with a field for each thing.")
    ] = "human"
    traces: Annotated[
        bool, Field(description="Whether spans go to an OpenTelemetry collector, by OTLP over HTTP; see below.")
    ] = False

    @classmethod
    def load(cls, **given: Any) -> "Settings":
        """From the command line's values (None means not given), then the environment, then the defaults.

        Raises:
            ConfigError: a value is out of range, or a `VAE_*` variable is not a setting.
        """
        known = {PREFIX + name.upper() for name in cls.model_fields} | ELSEWHERE
        unknown = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)
        if unknown:
            raise ConfigError(
                f"environment: {', '.join(unknown)} is not a setting; settings are {', '.join(sorted(known))}"
            )
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            raise ConfigError(explain(error)) from error
