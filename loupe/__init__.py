"""Loupe: a gRPC mesh that makes image models for factories."""

import os

# onnxruntime writes a device id and a database of events below the user's cache and looks up a host to send them to; a
# factory's machine tells nobody anything. It reads this when it is first imported, and everything of Loupe that imports
# it (terminal, services, the process in a trainer's sandbox) is below this package or imports it first. Its own
# disable_telemetry_events() comes too late: the files are there by then.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
