"""Data sets and their versions: selection and splits."""
