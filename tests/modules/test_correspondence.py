"""Matching of locations, against numpy."""

import numpy as np
import paddle
import pytest

from passl.modules.correspondence import cells_at, match, match_mutual, take_matched

RNG = np.random.RandomState(0)
FQ, FK = RNG.randn(3, 6, 5), RNG.randn(3, 6, 7)             # [N, C, Lq], [N, C, Lk]
KEYS = RNG.randn(3, 4, 7).astype('float32')                 # [N, D, Lk]


def tensor(x, grad=False):
    return paddle.to_tensor(np.asarray(x, dtype='float32'), stop_gradient=not grad)


def by_hand(fq, fk):
    index, similarity = np.zeros((fq.shape[0], fq.shape[2]), 'int64'), np.zeros((fq.shape[0], fq.shape[2]))
    for n in range(fq.shape[0]):
        for i in range(fq.shape[2]):
            cosines = [fq[n, :, i] @ fk[n, :, j] / np.linalg.norm(fq[n, :, i]) / np.linalg.norm(fk[n, :, j])
                       for j in range(fk.shape[2])]
            index[n, i], similarity[n, i] = int(np.argmax(cosines)), max(cosines)
    return index, similarity


def test_match():
    index, similarity = match(tensor(FQ), tensor(FK))
    want, cosines = by_hand(FQ, FK)
    np.testing.assert_array_equal(index.numpy(), want)
    np.testing.assert_allclose(similarity.numpy(), cosines, atol=1e-5)
    assert index.dtype == paddle.int64


def test_match_uses_the_angle_only():
    scale = np.exp(RNG.randn(3, 1, 7) * 3)
    np.testing.assert_array_equal(match(tensor(FQ * 50), tensor(FK * scale))[0].numpy(), by_hand(FQ, FK)[0])


def test_identical_maps_match_themselves():
    index, similarity = match(tensor(FK), tensor(FK))
    np.testing.assert_array_equal(index.numpy(), np.tile(np.arange(7), (3, 1)))
    np.testing.assert_allclose(similarity.numpy(), 1, atol=1e-5)


def test_many_locations_may_match_one():
    fk = FK.copy()
    fk[:, :, 2] = 1.0
    index, _ = match(tensor(np.ones((3, 6, 5))), tensor(fk))
    assert (index.numpy() == 2).all()


def test_match_has_no_gradient():
    fq, fk = tensor(FQ, grad=True), tensor(FK, grad=True)
    index, similarity = match(fq * 1, fk * 1)
    assert index.stop_gradient and similarity.stop_gradient


def test_take_matched():
    index = RNG.randint(0, 7, (3, 5))
    got = take_matched(paddle.to_tensor(KEYS), paddle.to_tensor(index)).numpy()
    assert got.shape == (3, 5, 4)
    for n in range(3):
        for i in range(5):
            np.testing.assert_array_equal(got[n, i], KEYS[n, :, index[n, i]])


def test_take_matched_with_more_queries_than_keys():
    index = RNG.randint(0, 7, (3, 20))
    got = take_matched(paddle.to_tensor(KEYS), paddle.to_tensor(index)).numpy()
    np.testing.assert_array_equal(got, np.stack([KEYS[n][:, index[n]].T for n in range(3)]))


def test_permuting_key_locations_permutes_the_index_and_leaves_the_matched_keys():
    p = RNG.permutation(7)
    index, _ = match(tensor(FQ), tensor(FK))
    permuted, _ = match(tensor(FQ), tensor(FK[:, :, p]))
    np.testing.assert_array_equal(p[permuted.numpy()], index.numpy())
    np.testing.assert_array_equal(take_matched(paddle.to_tensor(KEYS[:, :, p]), permuted).numpy(),
                                  take_matched(paddle.to_tensor(KEYS), index).numpy())


def test_match_leaves_no_gradient_graph():
    fq, fk = tensor(FQ, grad=True), tensor(FK, grad=True)
    index, similarity = match(fq * 2.0, fk * 2.0)
    assert index.stop_gradient and similarity.stop_gradient
    dense = tensor(KEYS)
    assert take_matched(dense, index).stop_gradient


def test_only_those_that_choose_each_other_are_mutual():
    index, mutual = match_mutual(tensor(FQ), tensor(FK))
    there, back = by_hand(FQ, FK)[0], by_hand(FK, FQ)[0]
    np.testing.assert_array_equal(index.numpy(), there)
    want = [[float(back[n, there[n, i]] == i) for i in range(5)] for n in range(3)]
    np.testing.assert_array_equal(mutual.numpy(), want)
    assert 0 < np.mean(want) < 1 and mutual.dtype == paddle.float32


def centres(place, rows, columns):
    """(y, x) in the image of the centre of every cell that a view shows, as it shows them; in float64."""
    top, left, height, width, sideways, upside_down = map(float, place)
    out = []
    for i in range(rows):
        for j in range(columns):
            y, x = (i + 0.5) / rows, (j + 0.5) / columns
            y, x = 1 - y if upside_down else y, 1 - x if sideways else x
            out.append((top + y * height, left + x * width))
    return np.array(out)


def places_by_hand(places, rows, columns, radius):
    """(index, valid) by the distances to all key centres."""
    index, valid = [], []
    for query, key in places.astype('float64'):
        ours, theirs = centres(query, rows, columns), centres(key, rows, columns)
        sides = np.array([query[2] / rows, query[3] / columns])
        distances = np.linalg.norm((ours[:, None] - theirs[None]) / sides, axis=2)
        inside = ((ours >= key[:2]) & (ours <= key[:2] + key[2:4])).all(1)
        index.append(distances.argmin(1))
        valid.append(inside & (distances.min(1) <= radius))
    return np.array(index), np.array(valid)


def some_places(n, seed=0, smallest=0.2):
    """float32 [n, 2, 6]: crops of `smallest` to 0.7 of the sides, all flips."""
    rng = np.random.RandomState(seed)
    size = rng.uniform(smallest, 0.7, (n, 2, 2))
    flips = np.array([[[i & 1, i >> 1 & 1], [i >> 2 & 1, i >> 3 & 1]] for i in range(n)])
    return np.concatenate([rng.uniform(0, 1, (n, 2, 2)) * (1 - size), size, flips], axis=2).astype('float32')


@pytest.mark.parametrize('rows, columns, radius', [(4, 4, 1.0), (7, 7, 0.4), (3, 5, 0.6), (1, 1, 1.0), (4, 4, 100.0)])
def test_nearest_cells_in_the_image(rows, columns, radius):
    places = some_places(48)
    index, valid = (x.numpy() for x in cells_at(paddle.to_tensor(places), rows, columns, radius))
    want_index, want_valid = places_by_hand(places, rows, columns, radius)
    np.testing.assert_array_equal(valid, want_valid)
    np.testing.assert_array_equal(index[want_valid], want_index[want_valid])
    assert 0.05 < want_valid.mean() < 0.95
    assert index.dtype == np.int64 and index.min() >= 0 and index.max() < rows * columns


def test_a_flipped_view_of_the_same_crop():
    """Flipped left-right the cells of a row change places; crops that do not meet have no pair."""
    same = np.float32([[[0.1, 0.2, 0.5, 0.5, 0, 0], [0.1, 0.2, 0.5, 0.5, 1, 0]],
                       [[0.1, 0.2, 0.5, 0.5, 0, 0], [0.1, 0.2, 0.5, 0.5, 0, 1]],
                       [[0.0, 0.0, 0.4, 0.4, 0, 0], [0.5, 0.5, 0.4, 0.4, 0, 0]]])
    index, valid = cells_at(paddle.to_tensor(same), 2, 3, 0.01)
    assert index.numpy()[:2].tolist() == [[2, 1, 0, 5, 4, 3], [3, 4, 5, 0, 1, 2]]
    assert valid.numpy().tolist() == [[1] * 6, [1] * 6, [0] * 6]
