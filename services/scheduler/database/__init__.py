"""The database of the scheduler: tables and migrations."""
