"""The log: for people, or a JSON object a line for whatever collects them."""

import datetime
import logging
from typing import Any

import orjson

HUMAN = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Lines(logging.Formatter):
    """Each record as one JSON object; those of requests with a field for each thing that is known of them."""

    def format(self, record: logging.LogRecord) -> str:
        """time (UTC, RFC 3339), level, logger, message, the record's own `fields`, and the traceback of an error."""
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def configure(level: str, form: str) -> None:
    """Have this process write its log to standard error.

    Args:
        level: least severe record that is shown.
        form: human or json.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(Lines() if form == "json" else logging.Formatter(HUMAN))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # It warns of each body that is not what it should be: the refusal says it, to whom it concerns.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
