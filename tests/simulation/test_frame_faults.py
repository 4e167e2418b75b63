import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbluesky.camera.descramble import scramble
from nsbluesky.cleaning.layout import LAYOUTS
from nsbluesky.simulation.frame_faults import FrameFaults, deliver, lose_packets

LAYOUT = LAYOUTS["cosmic"]


@pytest.fixture(scope="module")
def frame():
    return np.random.default_rng(0).integers(1, 2**16, LAYOUT.shape).astype(np.uint16)


@pytest.mark.parametrize("lost_word", [0, 0x2000])
@pytest.mark.parametrize("seed", range(4))
def test_lost_packets_are_runs_in_the_order_of_the_stream(frame, lost_word, seed):
    faults = FrameFaults(lost_packets=1.0, packet_run=20, lost_word=lost_word)
    words, lost, corrupted = lose_packets(frame, LAYOUT, faults, np.random.default_rng(seed))
    assert not corrupted and 1 <= len(lost) <= 20
    np.testing.assert_array_equal(np.diff(lost), 1)
    sent, arrived = (scramble(f, LAYOUT).view(">u2").reshape(-1, 2048) for f in (frame, words))
    assert len(sent) == 585
    np.testing.assert_array_equal(arrived[lost], lost_word)
    others = np.setdiff1d(np.arange(585), lost)
    np.testing.assert_array_equal(arrived[others], sent[others])


def test_without_faults_a_frame_is_returned_as_it_is(frame):
    words, lost, corrupted = lose_packets(frame, LAYOUT, FrameFaults(), np.random.default_rng(0))
    assert words is frame and lost.size == 0 and not corrupted


def test_a_corrupted_frame_is_random(frame):
    words, lost, corrupted = lose_packets(frame, LAYOUT, FrameFaults(corrupted=1.0), np.random.default_rng(0))
    assert corrupted and lost.size == 0
    assert words.mean() == pytest.approx(32767.5, rel=0.01)
    assert (words == frame).mean() < 1e-3


def test_chances_are_kept(frame):
    faults, rng = FrameFaults(lost_packets=0.3), np.random.default_rng(1)
    hit = [lose_packets(frame, LAYOUT, faults, rng)[1].size > 0 for _ in range(60)]
    assert 8 <= sum(hit) <= 29


@given(
    st.integers(0, 60),
    st.tuples(*[st.sampled_from([0.0, 0.1, 0.5, 1.0])] * 4),
    st.integers(0, 2**32),
)
def test_delivery_says_what_happened_to_every_frame(num_frames, chances, seed):
    faults = FrameFaults(
        lost_frames=chances[0], doubled_frames=chances[1], late_frames=chances[2], renumbered_frames=chances[3]
    )
    delivery = deliver(faults, num_frames, np.random.default_rng(seed))
    arrived = np.bincount(delivery.order, minlength=num_frames)
    np.testing.assert_array_equal(np.flatnonzero(arrived == 0), delivery.lost)
    np.testing.assert_array_equal(np.flatnonzero(arrived == 2), delivery.doubled)
    assert arrived.max(initial=0) <= 2
    wrong = delivery.numbers != delivery.order
    np.testing.assert_array_equal(np.unique(delivery.order[wrong]), delivery.renumbered)
    first = {int(frame): place for place, frame in reversed(list(enumerate(delivery.order)))}
    for frame in delivery.late:
        if int(frame) + 1 in first and frame + 1 not in delivery.late:
            assert first[int(frame)] > first[int(frame) + 1]
    in_time = [k for k in delivery.order if k not in delivery.late]
    assert in_time == sorted(in_time)


def test_without_faults_every_frame_comes_once_in_order():
    delivery = deliver(FrameFaults(), 7, np.random.default_rng(0))
    np.testing.assert_array_equal(delivery.order, np.arange(7))
    np.testing.assert_array_equal(delivery.numbers, np.arange(7))
    assert not any(len(getattr(delivery, name)) for name in ("lost", "doubled", "late", "renumbered"))


@pytest.mark.parametrize("name", ["lost_packets", "late_frames"])
def test_an_impossible_chance_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} = 1.5"):
        FrameFaults(**{name: 1.5})


def test_empty_packets_are_refused():
    with pytest.raises(ValueError, match="packet_run"):
        FrameFaults(packet_run=0)
