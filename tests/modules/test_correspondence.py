"""Matching of locations, against numpy."""

import numpy as np
import paddle

from passl.modules.correspondence import match, take_matched

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
