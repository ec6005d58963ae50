"""Pictures: taken in streams, kept in packs, inspected, indexed, and compared for near-duplicates."""
