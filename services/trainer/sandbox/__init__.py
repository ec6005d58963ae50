"""Sandboxes: bubblewrap, a system call filter, warm slots."""
