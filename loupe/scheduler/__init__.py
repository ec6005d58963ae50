"""The contract of loupe.scheduler, generated from protos/."""
