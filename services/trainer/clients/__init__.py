"""What the trainer calls: storage."""
