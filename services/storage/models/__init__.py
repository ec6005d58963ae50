"""The model library, and the checkpoints of jobs."""
