"""Marks on pictures that nothing names: what the collector removes unless somebody asks for them in time."""
