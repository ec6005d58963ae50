"""NATS: a terminal's token opens its projects' progress, and nothing else."""
