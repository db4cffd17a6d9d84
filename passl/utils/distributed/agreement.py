"""Decisions that one process wants and all must carry out at the same step: stopping, saving."""

from . import dist


class Agreement:
    """Turns the wish of some process into a decision of all, without a collective in the step.

    The processes ask at steps at which they provably wait for each other (on the CPU every step, whose gradients
    are averaged; on an accelerator, where the host runs ahead of the device, every tenth and those that are logged).
    A wish is announced in the processes' store at one such step and due at the next: nobody reaches that one before
    the announcement is there, so all see it. With one process a wish is due at once.

    Args:
        token: text that is the same on all processes and differs from run to run.
    """

    def __init__(self, token: str) -> None:
        self.store, self.token = dist.store(), token
        self.turns: dict[str, int] = {}
        self.rounds: dict[str, int] = {}
        self.announced: set[str] = set()

    def due(self, kind: str, wanted: bool) -> bool:
        """Whether all do `kind` now. Every process calls this at the same steps.

        Args:
            kind: name of the decision.
            wanted: whether this process wants it.
        """
        if self.store is None:
            return bool(wanted)
        turn = self.turns[kind] = self.turns.get(kind, 0) + 1
        number = self.rounds.get(kind, 0)
        key = f'passl/{self.token}/{kind}/{number}'
        at = self.store.add(key, 0)
        if at == turn:
            self.rounds[kind] = number + 1
            return True
        if wanted and at == 0 and key not in self.announced:
            self.announced.add(key)
            if self.store.add(key + '/asked', 1) == 1:         # only the first one announces
                self.store.add(key, turn + 1)
        return False
