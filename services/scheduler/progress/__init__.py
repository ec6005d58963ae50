"""Progress: events to NATS through the outbox, and watching a job."""
