"""What a step of DenseCL copies between host and device, counted by the fake device itself: no way past Python's eyes.

(Not seen: what a kernel copies for itself.)
"""

import json
import os
import sys

import pytest

from . import plugin

# By a step without a log line, the batch apart: the indices of the shuffle in one array, where it moves anything. (In a
# run's first step the constants that normalise uint8 images go there, too.)
MOST_TO_DEVICE = 1
CASES = ['plain', 'bn_splits', 'regions', 'geometric']

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(plugin.build()[0] is None, reason=plugin.build()[1] or 'it can be built')]
STEPS, PER_EPOCH = {1: 12, 2: 6}, {1: 6, 2: 3}         # 12 images, 2 per process, 2 epochs; the last of each logs


@pytest.fixture(scope='module', params=[1, 2])
def counted(request, tmp_path_factory, make_images):
    """(processes, [{case: counters} of each process]), see count_copies.py."""
    data, out = tmp_path_factory.mktemp('data'), tmp_path_factory.mktemp('counted')
    make_images(data / 'flat', 12)
    plugin.run([sys.executable, os.path.join(plugin.HERE, 'count_copies.py'), data, out, *CASES],
               request.param)
    found = []
    for rank in range(request.param):
        with open(out / f'rank{rank}.json') as f:
            found.append(json.load(f))
    return request.param, found


def test_the_counters_count(counted):
    for result in counted[1]:
        assert result['known'] == {
            'to_tensor': {'to_device': 1}, 'set_value': {'to_device': 1}, 'index': {'to_device': 1},
            'numpy': {'to_host': 1}, 'item': {'to_host': 1}, 'bool': {'to_host': 1}, 'product': {}, 'zeros': {}}


@pytest.mark.parametrize('case', CASES)
def test_a_step_without_a_log_line_copies_its_indices_and_reads_nothing(counted, case):
    processes, results = counted
    moves = processes > 1 or case == 'bn_splits'
    for result in results:
        steps = {int(i): counts for i, counts in result[case].items()}
        assert len(steps) == STEPS[processes]
        for i, counts in steps.items():
            if i % PER_EPOCH[processes]:
                assert counts['to_host'] == counts['async_to_host'] == 0, i
                assert counts['to_device'] + counts['async_to_device'] <= MOST_TO_DEVICE * moves + (i == 1), i
            else:
                assert counts['to_host'] > 0, i                # a log step reads its figures
