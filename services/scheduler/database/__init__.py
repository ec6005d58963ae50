"""The database of the scheduler: sessions and migrations."""
