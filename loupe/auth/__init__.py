"""The contract of loupe.auth, generated from protos/."""
