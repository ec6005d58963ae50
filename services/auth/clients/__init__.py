"""What auth calls."""
