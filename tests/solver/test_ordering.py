"""The order of frames: once a pass, new ones first, batches spread over the scan."""

from __future__ import annotations

from itertools import chain

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nsbluesky.solver.ordering import FrameQueue, spread, turns_of

GRID = np.stack(np.meshgrid(np.arange(20), np.arange(20), indexing="ij"), -1).reshape(-1, 2) * 10


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5))
@settings(deadline=None)
def test_every_frame_exactly_once(count, batch, seed):
    slots = np.arange(100, 100 + count)
    order = spread(slots, GRID[:count], batch, np.random.default_rng(seed))
    assert sorted(order) == slots.tolist()


def test_batches_are_spread():
    order = spread(np.arange(400), GRID, 8, np.random.default_rng(0))

    def nearest(batch):
        far = np.abs(GRID[batch][:, None] - GRID[batch][None]).max(axis=-1) + 1000 * np.eye(len(batch))
        return far.min()

    spread_out = np.mean([nearest(batch) for batch in order.reshape(50, 8)])
    random = np.mean([nearest(batch) for batch in np.random.default_rng(0).permutation(400).reshape(50, 8)])
    assert spread_out > 1.2 * random


STEPS = np.random.default_rng(1).integers(-2, 3, (400, 2))


def shifts_of(batches):
    return np.mean([len(np.unique(STEPS[batch], axis=0)) for batch in batches])


def test_a_batch_has_few_shifts_and_is_spread_as_before():
    order = spread(np.arange(400), GRID, 32, np.random.default_rng(0), STEPS)
    assert sorted(order) == list(range(400))
    batches = [order[first : first + 32] for first in range(0, 384, 32)]
    assert shifts_of(batches) < 0.65 * shifts_of(np.random.default_rng(0).permutation(384).reshape(12, 32))
    places = np.argsort(np.lexsort(GRID.T[::-1]))
    strata = [np.searchsorted(np.cumsum([13] * 16 + [12] * 16), places[batch], side="right") for batch in batches]
    assert all(sorted(found) == list(range(32)) for found in strata)


def test_frames_of_one_shift_and_no_others_have_one_turn():
    steps = GRID // 10 - [3, 15]  # all pairs of -3…16 and -15…4
    turns = turns_of(np.tile(steps, (2, 1)), np.random.default_rng(0))
    assert sorted(turns[:400]) == list(range(400))
    np.testing.assert_array_equal(turns[400:], turns[:400])


def test_newest_frames_of_a_batch_have_few_shifts_and_all_have_their_turn():
    queue = FrameQueue(0, newest=200)
    queue.add(range(400))
    queue.start_pass(np.arange(400), GRID, 32, STEPS)
    batches_of_pass(queue, 32)
    again = []
    for _ in range(8):
        queue.start_pass(np.arange(400), GRID, 32, STEPS)
        again += [batch[:16] for batch in batches_of_pass(queue, 32) if len(batch) == 32]
    assert shifts_of(again) < 0.5 * shifts_of(np.random.default_rng(0).permutation(400)[:384].reshape(24, 16))
    uses = np.bincount(np.concatenate(again), minlength=400)
    assert uses[200:].min() > 0
    assert not uses[:200].any()


def batches_of_pass(queue, batch):
    dealt = []
    while not queue.pass_is_over:
        dealt.append(queue.next_batch(batch).tolist())
    return dealt


def test_new_frames_come_first_with_half_of_each_batch():
    queue = FrameQueue(0)
    queue.add(range(8))
    queue.start_pass(np.arange(8), GRID[:8], 4)
    assert sorted(chain(*batches_of_pass(queue, 4))) == list(range(8))
    queue.start_pass(np.arange(8), GRID[:8], 4)
    queue.add((20, 21, 22))
    assert queue.next_batch(4)[:2].tolist() == [20, 21]
    assert queue.next_batch(4)[0] == 22
    assert queue.fresh == 0


def test_a_pass_ends_though_frames_keep_coming():
    queue = FrameQueue(0)
    queue.add([0])
    queue.start_pass(np.arange(1), GRID[:1], 4)
    new = 1
    for _ in range(100):
        if queue.pass_is_over:
            break
        queue.next_batch(4)
        for _ in range(8):
            queue.add([new])
            new += 1
    assert queue.pass_is_over and queue.fresh > 0


def test_withdrawn_frames_are_not_dealt():
    queue = FrameQueue(0)
    queue.start_pass(np.arange(10), GRID[:10], 4)
    queue.add([30])
    queue.remove([3, 30])
    assert sorted(chain(*batches_of_pass(queue, 4))) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_half_of_each_batch_is_from_the_newest_while_frames_arrive():
    queue = FrameQueue(0, newest=20)
    queue.add(range(100))
    queue.start_pass(np.arange(100), GRID[:100], 8)
    batches_of_pass(queue, 8)
    queue.start_pass(np.arange(100), GRID[:100], 8)
    dealt = batches_of_pass(queue, 8)
    uses = np.bincount(list(chain(*dealt)), minlength=100)
    assert uses[:80].tolist() == [1] * 80  # the older ones once a pass
    assert uses[80:].mean() > 3
    assert all(len(set(batch)) == len(batch) for batch in dealt)
    queue.start_pass(np.arange(100), GRID[:100], 8, live=False)
    assert sorted(chain(*batches_of_pass(queue, 8))) == list(range(100))


def test_each_frame_once_while_all_are_the_newest_and_one_in_a_batch_of_one():
    queue = FrameQueue(0, newest=20)
    queue.add(range(20))
    for batch in (1, 8):
        queue.start_pass(np.arange(20), GRID[:20], batch)
        dealt = batches_of_pass(queue, batch)
        assert sorted(chain(*dealt)) == list(range(20))
        assert max(map(len, dealt)) == batch


def test_a_restored_deck_deals_as_the_one_it_was_taken_from():
    queues = FrameQueue(0, newest=10), FrameQueue(5, newest=10)
    for queue in queues:
        queue.add(range(40))
        queue.start_pass(np.arange(40), GRID[:40], 8)
    batches_of_pass(queues[0], 8)
    queues[0].add([40, 41])
    queues[1].restore(queues[0].contents())
    dealt = []
    for queue in queues:
        queue.start_pass(np.arange(42), GRID[:42], 8)
        dealt.append(batches_of_pass(queue, 8))
    assert dealt[0] == dealt[1]
    assert dealt[0][0][:2] == [40, 41]


def test_new_frames_come_before_the_newest_and_withdrawn_ones_not_at_all():
    queue = FrameQueue(0, newest=4)
    queue.add(range(30))
    queue.start_pass(np.arange(30), GRID[:30], 6)
    batches_of_pass(queue, 6)
    queue.add([30])
    queue.remove([29])
    queue.start_pass(np.arange(31), GRID[:31], 6)
    first = queue.next_batch(6).tolist()
    assert first[0] == 30 and set(first[1:3]) <= {26, 27, 28}
