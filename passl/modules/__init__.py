"""The small parts of the method, each tested alone."""

from ..utils.paddle_env import require_paddle

require_paddle()
