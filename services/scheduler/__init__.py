"""The scheduler service: jobs, where they are placed, and their progress."""
