"""Account groups, their permission parameters, and the thresholds of actions."""
