"""What the SDK has for anomaly alone: a score for a picture, and where in it."""
