"""Limits that two sides of a call must agree on: one sends no more, the other takes no more."""

from __future__ import annotations

MAX_DIGESTS = 20_000
"""Digests in one message: of blobs that are looked for or asked for."""

MAX_HEADER_BYTES = 64 << 10
"""Size of the first message of a client stream to storage."""

MAX_IMAGE_BYTES = 64 << 20
"""Size of a packed algorithm image."""

MAX_JOB_SECONDS = 30 * 86_400
"""Longest time that a job may ask for."""

MAX_MESSAGE_BYTES = 40 << 20
"""Size of a gRPC message to storage: room for a picture of 32 MiB and what is around it."""

MAX_SMALL_MESSAGE_BYTES = 4 << 20
"""Size of a gRPC message to a service that takes no files."""

MAX_STRANGERS_BYTES = 64 << 20
"""Bytes of messages that a public door reads at a time from callers who have not said who they are."""
