"""The contract of loupe.trainer, generated from protos/."""
