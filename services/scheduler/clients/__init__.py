"""What the scheduler calls: auth, storage, the trainers, NATS."""
