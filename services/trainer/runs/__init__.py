"""Runs: an algorithm image at work, and the checked intake of what it makes."""
