"""The contract of a hook."""

from typing import Annotated, Optional, TYPE_CHECKING

from ..utils.config.kinds import Check, is_number

if TYPE_CHECKING:
    from ..engine.trainer import Trainer


class Priority:
    """Order within a hook point, ascending; hooks of equal priority keep the order of the config.

    The reasons: what is broken stops the run before it reaches a weight or a queue (HEALTH); weights change first
    (OPTIMIZER), so that everything after sees the finished step; keys enter the queues when backward no longer needs
    the old ones (QUEUE, with the momentum hook); own hooks (NORMAL) may add to `trainer.outputs` before it is logged;
    the log comes before what compares its figures (COLLAPSE) and before an evaluation of the same epoch; the checkpoint
    is last, so that it holds the schedule, the queues and the best figure of the step it is named after.
    """

    HEALTH = 5
    MOMENTUM_UPDATE = 10
    OPTIMIZER = 20
    TIMER = 30
    LR_SCHEDULER = 40
    NORMAL = 50
    LOG = 60
    COLLAPSE = 62
    VISUAL = 70
    EVALUATE = 80
    CHECKPOINT = 90


Order = Annotated[float, Check(f'a number: {Priority.MOMENTUM_UPDATE} is first, {Priority.CHECKPOINT} is last',
                               is_number)]


class Hook:
    """Base of all hooks. The trainer calls:

        run_begin
          train_epoch_begin                        epoch E starts (or goes on, after a resume)
            wants_log                              is the step that starts a log step?
            train_iter_begin                       key encoder's EMA
              train_forward_end                    once per micro-batch: backward
            train_iter_end                         optimizer, queues, timer, schedule, log, checkpoint
              figures_read                         on log steps: all figures are there, nothing is written yet
          train_epoch_end                          evaluation, checkpoint
          checkpoint_saved                         after each checkpoint
          val_begin, val_end                       around an evaluation
        run_end                                    also when `total_iters` ends inside an epoch
        run_abort                                  instead of run_end when an error or a signal ends the run

    Every method gets the trainer. `trainer.iteration` counts finished steps: in train_iter_begin it does not hold
    the step that starts, in train_iter_end it holds the step just made. `trainer.epoch` is 1 for the first epoch.

    On log steps (`trainer.is_log_step`) alone the device may be read. What the log says of a step is one dict,
    `trainer.record`: in train_iter_end hooks before LogHook may add numbers, LogHook adds the figures of
    `trainer.outputs`, calls figures_read, in which a judge may add its word, and writes it; hooks after it find all.

    Args:
        priority: see `Priority`.

    Attributes:
        reads: names in `trainer.record` that hooks before this one must write; else the training does not start.
        writes: those that this one adds on every log step.
    """

    priority: float = Priority.NORMAL
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    def __init__(self, priority: Optional[Order] = None) -> None:
        if priority is not None:
            self.priority = priority

    def run_begin(self, trainer: 'Trainer') -> None:
        """Once, before the first step."""

    def run_end(self, trainer: 'Trainer') -> None:
        """Once, after the last step."""

    def run_abort(self, trainer: 'Trainer') -> None:
        """Release what is open; nothing may be saved, the state can be in the middle of a step."""

    def train_epoch_begin(self, trainer: 'Trainer') -> None:
        """Before an epoch's first step in this process."""

    def train_epoch_end(self, trainer: 'Trainer') -> None:
        """After an epoch's last step."""

    def wants_log(self, trainer: 'Trainer') -> bool:
        """Whether the step that starts is a log step; it is one if any hook wants it. The same on all processes."""
        return False

    def train_iter_begin(self, trainer: 'Trainer') -> None:
        """Before a step's data is fetched."""

    def train_forward_end(self, trainer: 'Trainer') -> None:
        """After the forward pass of each micro-batch; `trainer.outputs` holds its losses."""

    def train_iter_end(self, trainer: 'Trainer') -> None:
        """After the step's last micro-batch."""

    def figures_read(self, trainer: 'Trainer') -> None:
        """On log steps: `trainer.record` holds all figures, and what is added to it is still written."""

    def checkpoint_saved(self, trainer: 'Trainer') -> None:
        """After a checkpoint was written, to `trainer.last_checkpoint`."""

    def val_begin(self, trainer: 'Trainer') -> None:
        """Before an evaluation."""

    def val_end(self, trainer: 'Trainer') -> None:
        """After an evaluation; `trainer.val_results` holds its figures."""
