"""What the SDK has for classification alone: a class for a whole picture."""
