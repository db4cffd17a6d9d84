"""AP from PaddleDetection's evaluators against closed forms and a plain count."""

import json

import numpy as np
import pytest

from passl.transfer.paddledet.shim import available, import_ppdet

pytestmark = pytest.mark.skipif(not available(), reason='PaddleDetection is not installed')


def detections(rows):
    """What a detector gives for one image: rows of (class, score, x1, y1, x2, y2)."""
    return {'bbox': np.array(rows, np.float32), 'bbox_num': np.array([len(rows)], np.int32)}


def truth(classes, boxes, difficult=None):
    difficult = np.zeros(len(classes)) if difficult is None else difficult
    return {'gt_bbox': [np.array(boxes, np.float32)], 'gt_class': [np.array(classes).reshape(-1, 1)],
            'difficult': [np.array(difficult).reshape(-1, 1)], 'scale_factor': np.ones((1, 2)),
            'im_id': np.array([[0]])}


def overlap(a, b):
    """Pixels both cover over pixels either covers; VOC's corners are inclusive."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    both = max(width, 0) * max(height, 0)
    area = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return both / (sum(area) - both)


def eleven_points(hits, total):
    """VOC2007's AP of detections in order of their scores: the mean over recalls 0, 0.1 ... 1 of the best precision."""
    hits = np.array(hits, float)
    recall, precision = hits.cumsum() / total, hits.cumsum() / np.arange(1, len(hits) + 1)
    best = [max([p for r, p in zip(recall, precision) if r >= t - 1e-12], default=0) for t in np.arange(11) / 10]
    return np.mean(best)


def voc_metric(tmp_path):
    import_ppdet()
    from passl.transfer.paddledet.metrics import VOCStyleAP
    (tmp_path / 'labels.txt').write_text('red\nblue\n')
    return VOCStyleAP(str(tmp_path / 'labels.txt'), 2)


def test_voc_style_ap(tmp_path):
    metric, rng = voc_metric(tmp_path), np.random.RandomState(0)
    found = {0: [], 1: []}      # class -> (score, overlap) of each detection
    counts = {0: 0, 1: 0}
    for _ in range(12):
        box = rng.randint(0, 30, 2)
        box = [*box, *(box + rng.randint(20, 40, 2))]
        kind = int(rng.randint(2))
        shifted = (np.array(box) + rng.randint(-3, 4, 4)).tolist()
        rows = [(kind, rng.uniform(0.1, 1), *shifted), (1 - kind, rng.uniform(0.1, 1), *shifted)]
        counts[kind] += 1
        found[kind].append((np.float32(rows[0][1]), overlap(shifted, box)))
        found[1 - kind].append((np.float32(rows[1][1]), 0.0))
        metric.update(truth([kind], [box]), detections(rows))
    metric.accumulate()
    expected = []
    for threshold in np.arange(0.5, 0.96, 0.05):
        hits = [[o > threshold for _, o in sorted(found[c], key=lambda d: -d[0])] for c in (0, 1)]
        per_class = [eleven_points(hits[c], counts[c]) for c in (0, 1)]
        expected.append(np.mean(per_class))
    got = metric.get_results()['bbox']
    assert got == pytest.approx([np.mean(expected), expected[0], expected[5]], abs=1e-6)
    assert 0 < got[2] < got[1] < 1
    metric.reset()
    metric.accumulate()
    assert metric.get_results()['bbox'] == [0, 0, 0]


def test_difficult_objects_count_neither_way(tmp_path):
    metric = voc_metric(tmp_path)
    boxes = [[0, 0, 20, 20], [30, 30, 60, 60]]
    metric.update(truth([0, 0], boxes, [0, 1]), detections([(0, 0.9, *boxes[1]), (0, 0.5, *boxes[0])]))
    metric.accumulate()
    assert metric.get_results()['bbox'] == [1.0, 1.0, 1.0]


def test_coco_ap_of_known_overlaps(tmp_path):
    """One class, one box per image, each found with a known overlap: AP is the share of thresholds that it passes."""
    import_ppdet()
    from ppdet.metrics import COCOMetric

    from passl.transfer.paddledet.metrics import as_percent
    widths = [100, 90, 72, 60, 40]      # of a detection inside a true box of 100 x 100: the overlap in percent
    path = tmp_path / 'instances.json'
    path.write_text(json.dumps({
        'images': [{'id': i, 'file_name': f'{i}.png', 'width': 300, 'height': 300} for i in range(1, 6)],
        'annotations': [{'id': i, 'image_id': i, 'category_id': 4, 'bbox': [10, 10, 100, 100], 'area': 10000,
                         'iscrowd': 0} for i in range(1, 6)],
        'categories': [{'id': 4, 'name': 'thing'}]}))
    metric = COCOMetric(anno_file=str(path), clsid2catid={0: 4}, output_eval=str(tmp_path))
    for i, width in enumerate(widths):
        outs = detections([(0, 0.9 - 0.1 * i, 10, 10, 10 + width, 110)])
        metric.update({'im_id': np.array([[i + 1]])}, outs)
    metric.accumulate()
    results = as_percent(metric.get_results())['bbox']
    # at a threshold, the detections that pass come first; k of 5 recalled with precision 1: 20k + 1 of 101 recalls
    passed = [sum(w / 100 >= t - 1e-9 for w in widths) for t in np.arange(0.5, 0.96, 0.05)]
    expected = [(20 * k + 1) / 101 for k in passed]
    assert results['AP'] == pytest.approx(100 * np.mean(expected), abs=1e-3)
    assert results['AP50'] == pytest.approx(100 * expected[0], abs=1e-3)
    assert results['AP75'] == pytest.approx(100 * expected[5], abs=1e-3)
    assert 'APs' not in results and results['APl'] == results['AP']
