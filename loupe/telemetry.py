"""Logs and metrics of a process: one JSON object a line, a Prometheus page."""

from __future__ import annotations

import logging
import sys
from io import TextIOBase
from typing import TextIO, cast

import structlog
from prometheus_client import Counter, Histogram, start_http_server

from loupe.settings import ServiceSettings

SECRET_WORDS = ("password", "token", "secret", "authorization", "seed", "private")

CALLS = Counter("loupe_rpc_calls_total", "Calls served, by method and status code.", ["method", "code"])
SECONDS = Histogram(
    "loupe_rpc_seconds",
    "Seconds that calls took, by method.",
    ["method"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)


def count_call(method: str, code: str, seconds: float) -> None:
    """Add one served call to the metrics."""
    CALLS.labels(method, code).inc()
    SECONDS.labels(method).observe(seconds)


def _redact(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for key in event:
        if any(word in key.lower() for word in SECRET_WORDS) and event[key] is not None:
            event[key] = "[redacted]"
    return event


class _Stderr(TextIOBase):
    """Whatever sys.stderr is at the moment of writing; loggers are kept for longer than some of them live."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def configure_logging(settings: ServiceSettings, service: str) -> None:
    """Make structlog and the standard library write to stderr in one format, secrets redacted."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _redact,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if settings.log_json else structlog.dev.ConsoleRenderer()
    )
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Stderr())),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    structlog.contextvars.bind_contextvars(service=service)


def serve_metrics(port: int) -> None:
    """Open the Prometheus page on loopback; port 0 opens none."""
    if port:
        start_http_server(port, addr="127.0.0.1")
