"""The trainer's report on itself."""
