"""The algorithm image library."""
