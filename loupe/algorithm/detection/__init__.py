"""What the SDK has for detection alone: boxes with classes."""
