"""Attempts: what the scheduler asks for, under a lease."""
