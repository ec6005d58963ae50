"""What storage calls: auth."""
