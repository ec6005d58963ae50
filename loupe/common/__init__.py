"""The contract of loupe.common, generated from protos/."""
