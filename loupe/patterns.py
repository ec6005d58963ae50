"""The two patterns that resource names and algorithm images share; it imports nothing, as a sandbox has no protobuf."""

ID = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
VERSION = r"[0-9A-Za-z](?:[0-9A-Za-z.+-]{0,30}[0-9A-Za-z])?"
