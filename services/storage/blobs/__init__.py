"""Bytes by their sha256: uploads, downloads, packs of small files, files that stand alone."""
