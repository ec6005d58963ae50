"""Training jobs: submission, transitions, cancellation, listing."""
