"""Files on the local disk and finished files wherever they lie: written once, read in chunks, each one checked."""
