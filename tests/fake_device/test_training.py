"""Trainings on the fake accelerator end with the bits of a CPU, with 1, 2 and 3 processes; and a real loss scaler.

The operators are the same on both (the fake device has none of its own), its sums over processes are added in the
order of gloo, which a CPU uses, and train.py lets the loss take the device's path on the CPU, too. What can differ is
all that the project does for an accelerator alone: copies, the exchange by all-to-all, the meetings, the loss scaler.
"""

import json
import math
import os
import sys

import pytest

from . import plugin

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(plugin.build()[0] is None, reason=plugin.build()[1] or 'it can be built')]
ALWAYS = ['densecl', 'clas, evaluated']         # which has no even share for each process
CASES = {1: ALWAYS + ['moco', 'simclr with LARS', 'accumulating', 'bn_splits', 'recompute', 'workers', 'regions',
                      'geometric'],
         2: ALWAYS + ['simclr with LARS', 'accumulating', 'bn_splits', 'recompute', 'regions', 'geometric'], 3: ALWAYS}
MIXED = {1: ['amp', 'amp, overflow'], 2: ['amp, overflow'], 3: []}


@pytest.fixture(scope='module')
def data(tmp_path_factory, make_images):
    from tests.engine.small import write_data
    return write_data(tmp_path_factory.mktemp('data'), make_images)


@pytest.fixture(scope='module')
def trained(tmp_path_factory, data):
    """trained(device, processes): [{case: result} of each process], see train.py; made once."""
    made = {}

    def results(device, processes):
        if (device, processes) not in made:
            out = tmp_path_factory.mktemp(f'{device}_{processes}')
            cases = CASES[processes] + (MIXED[processes] if device == 'fake' else [])
            script = os.path.join(plugin.HERE, 'train.py')
            plugin.run([sys.executable, script, {'fake': 'fake:0'}.get(device, device), data, out, *cases], processes,
                       device)
            made[device, processes] = []
            for rank in range(processes):
                with open(out / f'rank{rank}.json') as f:
                    made[device, processes].append(json.load(f))
        return made[device, processes]
    return results


@pytest.mark.parametrize('processes, case', [(n, case) for n in CASES for case in CASES[n]])
def test_equal_to_the_cpu_bit_for_bit(trained, processes, case):
    ours, theirs = (trained(device, processes) for device in ('fake', 'cpu'))
    assert {r['device'] for r in ours} == {'Place(fake:0)'} and {r['device'] for r in theirs} == {'Place(cpu)'}
    for a, b in zip(ours, theirs):
        assert a[case]['whole'] == b[case]['whole']
    whole = ours[0][case]['whole']
    assert all(map(math.isfinite, whole['losses'])) and len(set(whole['losses'])) == len(whole['losses']) > 1
    assert len(whole['val']) == (2 if case == 'clas, evaluated' else 0)
    assert all(v['num_samples'] == 9 for v in whole['val'])


@pytest.mark.parametrize('processes, case', [
    (n, case) for n in CASES for case in ('densecl', 'simclr with LARS', 'regions', 'geometric') if case in CASES[n]])
def test_a_resumed_run_ends_where_the_whole_one_does(trained, processes, case):
    result = trained('fake', processes)[0][case]
    assert result['parts'] == result['whole']


def test_cases_are_not_all_the_same(trained):
    """Every case trains something else; but who loads the images changes nothing."""
    one = trained('fake', 1)[0]
    states = [one[case]['whole']['state'] for case in CASES[1]]
    assert len(set(states)) == len(states) - 1 and one['workers'] == {'whole': one['densecl']['whole']}


def test_a_scaled_loss_trains_to_the_same_bits(trained):
    """The scale is a power of two and nothing runs in half precision: only the way through the scaler differs."""
    one = trained('fake', 1)[0]
    scaled, plain = one['amp']['whole'], one['densecl']['whole']
    assert (scaled['state'], scaled['losses']) == (plain['state'], plain['losses'])
    assert scaled['scaler']['scale'] == [1024.0] and scaled['scaler']['incr_count'] == len(scaled['losses']) == 6
    assert plain['scaler'] == {} and not any(scaled['skipped'])


@pytest.mark.parametrize('processes', [1, 2])
def test_steps_that_overflow_are_skipped_and_counted(trained, processes):
    whole = trained('fake', processes)[0]['amp, overflow']['whole']
    skipped, weights = whole['skipped'], whole['weights']
    assert len(weights) == len(skipped) == 6 and 0 < skipped[-1] < 6
    assert [a == b for a, b in zip(weights, weights[1:])] == [a < b for a, b in zip(skipped, skipped[1:])]
    assert whole['scaler']['scale'] == [whole['first_scale'] / 2 ** skipped[-1]]
    good_at_the_end = skipped.count(skipped[-1]) - 1
    assert whole['scaler']['incr_count'] == good_at_the_end > 0


@pytest.mark.parametrize('processes', [1, 2])
def test_scale_and_counters_go_on_after_a_resume(trained, processes):
    result = trained('fake', processes)[0]['amp, overflow']
    whole, parts = result['whole'], result['parts']
    for key in ('state', 'losses', 'scaler', 'weights'):
        assert parts[key] == whole[key], key
    # of this process's run, see HealthHook
    before, after = whole['skipped'][:4], whole['skipped'][4:]
    assert parts['skipped'] == before + [n - before[-1] for n in after]
