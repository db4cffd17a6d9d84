"""The ring buffer, against a list of the last K keys."""

import copy

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.modules.feature_queue import FeatureQueue, spread_cells

DIM, K = 3, 8


class Owner(nn.Layer):
    def __init__(self, size=K):
        super().__init__()
        self.memory = FeatureQueue(self, 'queue', DIM, size)


def push(owner, rows):
    owner.memory.push(paddle.to_tensor(np.asarray(rows, dtype='float32')))


def keys(start, n):
    """Rows that can be told apart: [start, start, start], [start + 1, ...], ..."""
    return np.repeat(np.arange(start, start + n, dtype='float32')[:, None], DIM, axis=1)


def test_starts_with_random_unit_columns():
    owner = Owner(4096)
    np.testing.assert_allclose(np.linalg.norm(owner.queue.numpy(), axis=0), 1, atol=1e-5)
    assert owner.queue.shape == [DIM, 4096] and abs(owner.queue.numpy().mean()) < 0.02
    assert owner.queue_ptr.numpy().tolist() == [0] and owner.queue_ptr.dtype == paddle.int64


@pytest.mark.parametrize('sizes', [[3, 3, 3, 3], [8], [5, 8, 2], [1] * 20, [4, 4, 4], [11], [2, 19, 3], [16],
                                   [7, 24, 1]])
def test_holds_the_last_keys_of_any_batch_sizes(sizes):
    owner = Owner()
    ring, at, start = owner.queue.numpy().copy(), 0, 100
    for n in sizes:
        for row in keys(start, n):
            ring[:, at % K] = row
            at += 1
        push(owner, keys(start, n))
        start += n
        np.testing.assert_array_equal(owner.queue.numpy(), ring)
        assert owner.queue_ptr.numpy().tolist() == [at % K]


def test_is_written_in_place_and_has_no_gradient():
    owner = Owner()
    queue, pointer = owner.queue, owner.queue_ptr
    rows = paddle.to_tensor(keys(1, 3), stop_gradient=False)
    owner.memory.push(rows * 2)
    assert owner.queue is queue and owner.queue_ptr is pointer
    assert queue.stop_gradient
    np.testing.assert_array_equal(queue.numpy()[:, :3], 2 * keys(1, 3).T)


def test_goes_on_at_a_loaded_pointer():
    owner, other = Owner(), Owner()
    push(owner, keys(1, 5))
    push(other, keys(50, 2))
    other.set_state_dict({k: v.numpy() for k, v in owner.state_dict().items()})
    push(other, keys(10, 2))
    assert other.queue_ptr.numpy().tolist() == [7]
    assert other.queue.numpy()[0, :7].tolist() == [1, 2, 3, 4, 5, 10, 11]
    other.queue_ptr.set_value(paddle.to_tensor([1], dtype='int64'))
    push(other, keys(20, 1))
    assert other.queue.numpy()[0, :3].tolist() == [1, 20, 3]


def test_is_saved_with_its_owner():
    owner = Owner()                     # a state dict holds the persistable buffers only
    assert sorted(owner.state_dict()) == ['queue', 'queue_ptr']
    assert owner.parameters() == []


def test_a_copy_has_a_queue_of_its_own():
    owner = Owner()
    twin = copy.deepcopy(owner)
    push(twin, keys(1, 2))
    assert owner.queue_ptr.numpy().tolist() == [0] and twin.queue_ptr.numpy().tolist() == [2]
    assert not np.array_equal(owner.queue.numpy(), twin.queue.numpy())


def test_half_precision_keys_are_stored_in_float32():
    owner = Owner()
    owner.memory.push(paddle.to_tensor(keys(1, 2)).astype('float16'))
    assert owner.queue.dtype == paddle.float32
    assert owner.queue.numpy()[0, :2].tolist() == [1, 2]


@pytest.mark.cpu_only('on the fake device an in-place operator gives its tensor new memory')
def test_push_keeps_the_memory_of_the_buffers():
    owner = Owner()
    places = owner.queue.data_ptr(), owner.queue_ptr.data_ptr()
    for n in (3, 8, 11):
        push(owner, keys(1, n))
    assert (owner.queue.data_ptr(), owner.queue_ptr.data_ptr()) == places


def test_every_cell_is_taken_as_often_as_another():
    index = spread_cells(12, 6, 2, 4).numpy()
    assert index.shape == (12, 2) and index[0].tolist() == [4, 1] and index[1].tolist() == [5, 2]
    assert np.bincount(index.ravel()).tolist() == [4] * 6
    assert all(len(set(row)) == 4 for row in spread_cells(5, 7, 4, 3).numpy())
