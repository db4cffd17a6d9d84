"""What the package uses of the processes of a job, under one name. One process is the case world size = 1.

The rooms: `world` (which processes there are, how they join and meet), `store` (counters of all), `exchange` (tensors
that cross) and `watch` (lost processes). Rank and size are read from the launcher's variables PADDLE_TRAINER_ID and
PADDLE_TRAINERS_NUM at every question, in every room: a test that plays another process sets these. A name replaced
here is replaced for those who look it up here, not inside the rooms.
"""

from .exchange import (Exchange, all_gather, all_gather_with_grad, gradient_traffic, meeting_order, no_sync, place,
                       sum_over_processes, traffic, wrap)
from .store import Store, second_store
from .watch import block_signals, end_watch, name_the_lost, on_loss, progress
from .world import broadcast_object, gather_objects, init, is_main, meet, on_cpu, rank, store, watch, world_size

__all__ = ['Exchange', 'Store', 'all_gather', 'all_gather_with_grad', 'block_signals', 'broadcast_object', 'end_watch',
           'gather_objects', 'gradient_traffic', 'init', 'is_main', 'meet', 'meeting_order', 'name_the_lost', 'no_sync',
           'on_cpu', 'on_loss', 'place', 'progress', 'rank', 'second_store', 'store', 'sum_over_processes', 'traffic',
           'watch', 'world_size', 'wrap']
