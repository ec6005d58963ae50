"""The trainer service: runs algorithm images in sandboxes."""
