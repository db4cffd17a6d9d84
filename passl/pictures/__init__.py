"""Pictures: what a network sees, which cells it takes for the same thing, curves."""
