"""Caches: packs of picture files, decoded pictures, algorithm images."""
