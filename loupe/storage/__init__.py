"""The contract of loupe.storage, generated from protos/."""
