"""Pictures: inspected, indexed, and compared for near-duplicates."""
