"""All settings of the service, in one frozen object: command line > environment (`VAE_*`) > default."""

import os
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from app.service_links import is_service_link, service_links
from model.errors import ConfigError, explain

EngineName = Literal["auto", "torch", "onnxruntime"]
PrecisionName = Literal["float32", "bfloat16"]
PREFIX = "VAE_"
#: Variables with the keys of clients and of administrators; with the suffix _FILE they name a file of keys. Keys are no
#: fields of `Settings`, so that nothing prints them.
API_KEYS, ADMIN_KEYS = "VAE_API_KEYS", "VAE_ADMIN_KEYS"
#: Variables that other modules read: `app.api.keys` and `model.datasets`.
OTHER_VARIABLES = frozenset({"VAE_DATA", *(name + end for name in (API_KEYS, ADMIN_KEYS) for end in ("", "_FILE"))})
#: Segments of unreserved and similar characters, which no client needs to escape.
ROOT_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[\w.~!$&'()*+,;=:@-]+)*", re.ASCII)


def _root_path(text: str | None) -> str | None:
    path = (text or "").rstrip("/")
    if not ROOT_PATH.fullmatch(path):
        raise ValueError(f"{text!r:.80} is not a path; give one such as /vae")
    return path or None


class Settings(BaseSettings):
    """Settings of one process. Each field is also an environment variable: `max_rows` is `VAE_MAX_ROWS`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    model: Annotated[str, Field(description="Folder of a run or a checkpoint, or the name of a shipped model.")] = (
        "fashion-mnist"
    )
    host: Annotated[str, Field(description="Address to listen on; :: is every address of IPv6 and IPv4.")] = "127.0.0.1"
    port: Annotated[int, Field(description="Port to listen on; 0 picks a free port.", ge=0, le=65535)] = 8000
    root_path: Annotated[
        str | None,
        AfterValidator(_root_path),
        Field(description="Path below which a proxy serves the service, such as /vae; requests may lack it."),
    ] = None
    http: Annotated[
        Literal["fast", "standard"],
        Field(description="HTTP path: fast bypasses ASGI for small requests; standard is uvicorn's own protocol."),
    ] = "fast"
    device: Annotated[str, Field(description="auto, cpu or cuda; auto uses CUDA if available.")] = "auto"
    workers: Annotated[int, Field(description="Number of server processes; each loads its own model.", ge=1)] = 1
    threads: Annotated[
        int | None, Field(description="Compute threads per worker; by default the cores divided by the workers.", ge=1)
    ] = None
    engine: Annotated[
        EngineName, Field(description="auto, torch or onnxruntime; auto uses the faster one that agrees with torch.")
    ] = "auto"
    precision: Annotated[
        PrecisionName, Field(description="Precision of encoding and decoding: float32 or bfloat16.")
    ] = "float32"
    score_precision: Annotated[PrecisionName, Field(description="Precision of scoring: float32 or bfloat16.")] = (
        "float32"
    )
    max_body_bytes: Annotated[int, Field(description="Maximum size of a request body in bytes.", ge=1024)] = 32 << 20
    max_rows: Annotated[
        int, Field(description="Maximum number of rows (inputs, latents, samples) in a request.", ge=1)
    ] = 1024
    max_samples: Annotated[int, Field(description="Maximum number of draws per input of a free energy.", ge=1)] = 5000
    max_work: Annotated[int, Field(description="Maximum of rows x samples x (1 + refine) in a request.", ge=1)] = 65536
    max_pixels: Annotated[
        int, Field(description="Maximum number of pixels of all images in a request, before resizing.", ge=1)
    ] = 1 << 26
    batch_rows: Annotated[
        int | None,
        Field(description="Maximum number of rows in a model call; by default 64 to 256, depending on speed.", ge=1),
    ] = None
    queue_rows: Annotated[
        int, Field(description="Maximum number of queued rows of small requests; further requests get 429.", ge=1)
    ] = 1 << 14
    queue_seconds: Annotated[
        float,
        Field(description="Maximum number of seconds that a small request waits for others; else it gets 429.", gt=0),
    ] = 1.0
    large_queue_seconds: Annotated[
        float | None,
        Field(
            description="Maximum number of seconds that a large request waits for others; else it gets 429. "
            "By default half of the deadline.",
            gt=0,
        ),
    ] = None
    queue_bytes: Annotated[
        int,
        Field(description="Maximum bytes of all bodies and decoded images in memory; further requests get 429.", ge=1),
    ] = 1 << 27
    body_timeout: Annotated[float, Field(description="Maximum number of seconds to receive a request body.", gt=0)] = (
        30.0
    )
    keep_alive: Annotated[
        int, Field(description="Seconds before an idle connection is closed; set it above the proxy's timeout.", ge=1)
    ] = 75
    deadline: Annotated[
        float, Field(description="Maximum number of seconds to answer a request; later it gets 504.", gt=0, le=86_400)
    ] = 60.0
    hang_timeout: Annotated[
        float, Field(description="Seconds after which a running model call counts as hung.", gt=0)
    ] = 60.0
    grace: Annotated[float, Field(description="Seconds between SIGTERM and the refusal of new requests.", ge=0)] = 5.0
    shutdown_timeout: Annotated[
        int, Field(description="Maximum number of seconds to finish open requests at shutdown.", ge=0)
    ] = 30
    reload: Annotated[bool, Field(description="Allow POST /model/reload.")] = False
    cors_origins: Annotated[
        str | None, Field(description="Origins allowed to call from web pages, separated by commas; * allows all.")
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="Minimum severity of log lines.")
    ] = "info"
    log_format: Annotated[
        Literal["human", "json"], Field(description="Format of log lines: human, or json with one object per line.")
    ] = "human"
    traces: Annotated[bool, Field(description="Send spans to an OpenTelemetry collector by OTLP over HTTP.")] = False

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The sources of values by precedence, without the variables that Kubernetes sets for Services."""
        assert isinstance(env_settings, EnvSettingsSource)
        variables = env_settings.env_vars.items()
        env_settings.env_vars = {name: text for name, text in variables if not is_service_link(name.upper(), text)}
        return init_settings, env_settings, dotenv_settings, file_secret_settings

    @property
    def max_large_wait(self) -> float:
        """Maximum seconds that a large request waits for others."""
        return self.deadline / 2 if self.large_queue_seconds is None else self.large_queue_seconds

    @classmethod
    def load(cls, **given: Any) -> "Settings":
        """Build settings from the command line (`given`; None means not given), the environment and the defaults.

        Raises:
            ConfigError: a value is out of range, or a `VAE_*` variable is not a setting.
        """
        variables = {PREFIX + name.upper() for name in cls.model_fields} | OTHER_VARIABLES
        named = {name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in variables}
        unknown = sorted(named - service_links(os.environ, PREFIX))
        if unknown:
            raise ConfigError(
                f"environment: {', '.join(unknown)} is not a setting; settings are {', '.join(sorted(variables))}"
            )
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            raise ConfigError(explain(error)) from error
