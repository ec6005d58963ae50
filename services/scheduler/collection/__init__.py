"""Collection: what was deleted long enough ago goes, and so do the checkpoints of jobs that ended long enough ago."""
