"""Log formats: text for people, or one JSON object a line for log collectors."""

import datetime
import logging
from typing import Any

import orjson


class JSONFormatter(logging.Formatter):
    """Formatter that writes each record as one JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record: time (UTC, RFC 3339), level, logger, message, its `fields`, and the traceback if any."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def configure(level: str, log_format: str) -> None:
    """Send the log of this process, from `level` on, to standard error in the format human or json."""
    handler, human = logging.StreamHandler(), logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JSONFormatter() if log_format == "json" else human)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # python_multipart warns of every malformed body. The response already tells the client.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
