"""What the scheduler calls: auth, Consul, NATS, storage, the trainers."""
