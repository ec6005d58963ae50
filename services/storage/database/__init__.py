"""The database of storage: session and migrations."""
