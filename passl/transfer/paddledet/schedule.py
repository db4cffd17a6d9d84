"""How long a run is: in iterations, which PaddleDetection's trainer does not know."""

from typing import Any, Optional

from .config import TAG


class Budget:
    """PaddleDetection's loader, ended after so many batches: its trainer counts epochs only."""

    def __init__(self, loader: Any, batches: int) -> None:
        self.loader, self.left, self.dataset = loader, batches, loader.dataset

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        batches = iter(self.loader)
        while self.left:
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.left -= 1
            yield batch


def move_schedule(cfg: dict[str, Any], iterations: Optional[int]) -> None:
    """Change the config's length; steps and a long warm-up keep their place in proportion.

    Args:
        cfg: plain config; changed in place.
        iterations: new length, or None for the config's own.
    """
    before = cfg['iterations']
    cfg['iterations'] = iterations or before
    share = cfg['iterations'] / before
    last = cfg['iterations']
    for schedule in (cfg.get('LearningRate') or {}).get('schedulers', []):
        if schedule.get(TAG) == 'IterationSteps' and share != 1:
            steps = [max(2, round(step * share)) for step in schedule['milestones']]
            schedule['milestones'] = sorted(set(steps))
            last = min(last, min(steps))
        elif schedule.get(TAG) == 'LinearWarmup' and share < 1:
            schedule['steps'] = max(1, min(schedule.get('steps', 500), last // 2))
