"""Evaluation: exact counts, checked against NumPy."""

import os

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.engine.builder import build_trainer
from passl.engine.evaluator import evaluate
from passl.engine.run_folder import checkpoints
from passl.utils.config import with_defaults
from passl.utils.errors import DataError
from passl.utils.weights import load_into, load_weights

from .small import clas, records, train


class Table(nn.Layer):
    """A model whose scores for image i are a row of a table; the image holds i."""

    def __init__(self, scores):
        super().__init__()
        self.scores = paddle.to_tensor(scores)
        self.modes = []

    def forward(self, image, mode='train'):
        self.modes.append((mode, self.training))
        return self.scores[image[:, 0, 0, 0].astype('int64')]


def batches(labels, size):
    """Loader-like list of (image, label)."""
    images = np.arange(len(labels), dtype='float32').reshape([-1, 1, 1, 1])
    return [(paddle.to_tensor(images[i:i + size]), paddle.to_tensor(labels[i:i + size]))
            for i in range(0, len(labels), size)]


def expected(scores, labels, k):
    best = np.argsort(-scores, axis=1)[:, :k]
    return 100.0 * np.mean([label in row for label, row in zip(labels, best)])


def no_cast():
    import contextlib
    return contextlib.nullcontext()


@pytest.mark.parametrize('size', [1, 4, 7, 23, 64])
def test_accuracy_equals_numpy_on_uneven_batches(size):
    """23 samples: a mean over batches would be wrong for 4 and 7."""
    rng = np.random.RandomState(0)
    scores, labels = rng.randn(23, 11).astype('float32'), rng.randint(0, 11, 23)
    model = Table(scores)
    result = evaluate(model, batches(labels, size), no_cast, topk=(1, 3, 5))
    for k in (1, 3, 5):
        assert result[f'acc{k}'] == pytest.approx(expected(scores, labels, k), abs=1e-9)
    assert result['num_samples'] == 23 and result['time'] > 0
    assert set(model.modes) == {('test', False)} and model.training


def test_labels_of_shape_n_by_1_and_int32():
    scores, labels = np.eye(4, dtype='float32'), np.array([0, 1, 0, 3], 'int32')
    for shape in ([-1], [-1, 1]):
        assert evaluate(Table(scores), batches(labels.reshape(shape), 3), no_cast)['acc1'] == 75.0


def test_acc5_with_three_classes_is_100():
    rng = np.random.RandomState(1)
    scores, labels = rng.randn(10, 3).astype('float32'), rng.randint(0, 3, 10)
    result = evaluate(Table(scores), batches(labels, 4), no_cast)
    assert result['acc5'] == 100.0 and result['acc1'] == pytest.approx(expected(scores, labels, 1))


def test_a_model_in_eval_mode_stays_there():
    model = Table(np.eye(2, dtype='float32'))
    model.eval()
    evaluate(model, batches(np.array([0, 1]), 1), no_cast)
    assert not model.training


def test_nothing_to_count_and_no_labels():
    model = Table(np.eye(2, dtype='float32'))
    with pytest.raises(DataError, match='validation data is empty.*dataloader.val.dataset'):
        evaluate(model, [], no_cast)
    with pytest.raises(DataError, match="needs labels. Set 'return_label: true'"):
        evaluate(model, [(paddle.zeros([2, 1, 1, 1]),)], no_cast)


def numpy_accuracy(cfg, checkpoint):
    """Top-1 on the val images by a loop over single images."""
    trainer = build_trainer(with_defaults(cfg), training=False)
    load_into(trainer.model, load_weights(checkpoint))
    trainer.model.eval()
    right = 0
    for i in range(len(trainer.val_loader.dataset)):
        image, label = trainer.val_loader.dataset[i]
        with paddle.no_grad():
            right += int(trainer.model(paddle.to_tensor(image[None]), mode='test').numpy().argmax() == label)
    return 100.0 * right / len(trainer.val_loader.dataset)


def test_evaluate_only_equals_the_evaluation_in_training_and_numpy(data, tmp_path, capsys):
    """9 images in batches of 4: the last one has 1. drop_last in the val part drops nothing."""
    cfg = clas(data, output_dir=str(tmp_path / 'out'), epochs=2)
    folder, _ = train(cfg, capsys, '--val-interval', '1')
    during = records(folder, 'val')
    assert checkpoints(folder)[0] == 'epoch_2.pdparams'
    for r in during:
        path = os.path.join(folder, f"epoch_{r['epoch']}.pdparams")
        assert r['acc1'] == pytest.approx(numpy_accuracy(cfg, path), abs=1e-9)
        assert r['acc1'] * 9 / 100 == pytest.approx(round(r['acc1'] * 9 / 100), abs=1e-6)
    cfg['output_dir'] += '2'
    cfg['dataloader']['val']['sampler']['drop_last'] = True
    cfg['dataloader']['val']['sampler']['shuffle'] = True
    only, done = train(cfg, capsys, '--evaluate-only', '--load', os.path.join(folder, 'latest.pdparams'))
    (r,) = records(only, 'val')
    assert (r['acc1'], r['acc5'], r['num_samples']) == (during[-1]['acc1'], 100.0, 9)
    assert 'drop_last' in done.out and 'never trained' not in done.out
    assert r['epoch'] == 2 and 'Validate Epoch [2]' in done.out         # of the checkpoint


def test_evaluate_only_needs_the_val_part_only(data, tmp_path, capsys):
    cfg = clas(data, output_dir=str(tmp_path / 'out'))
    for key in ('optimizer', 'lr_scheduler', 'epochs'):
        del cfg[key]
    del cfg['dataloader']['train']
    folder, done = train(cfg, capsys, '--evaluate-only')
    assert records(folder, 'val')[0]['num_samples'] == 9
    assert 'Validate Epoch [' in done.out
    assert sorted(os.listdir(folder)) == ['log.jsonl', 'log.txt']
