"""Bytes by their sha256: single large files that are uploaded, referred to and fenced; and every download."""
