"""Small tools without Paddle at import time: registry, config, errors, logger, checkpoint files."""
