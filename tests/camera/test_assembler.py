"""Frames from datagrams: whatever happens on the way, a frame is right or it is flagged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbluesky.camera.assembler import CONFIRMED_BY, AssembledFrame, FrameAssembler, FrameFlag
from nsbluesky.camera.packets import END_OF_FRAME, FRAME_NUMBERS, PacketFormat, has_magic, is_packet

SMALL = PacketFormat(frame_bytes=16 * 20 - 6, payload_bytes=16)
"""20 packets, the last one short."""
WRAPPING = PacketFormat(frame_bytes=8 * 585, payload_bytes=8)
"""585 packets: their numbers wrap twice, as at COSMIC."""


@dataclass
class Datagram:
    """One on its way: its bytes, and where it stands in what the camera sent."""

    content: bytes
    place: float


def stream_of(form: PacketFormat, number: int) -> npt.NDArray[np.uint8]:
    """Return a stream that no other frame has, in which no two packets are alike."""
    return np.random.default_rng(number).integers(0, 256, form.frame_bytes, dtype=np.uint8)


def datagrams_of(form: PacketFormat, first: int, count: int) -> list[Datagram]:
    """Return what the camera sends for some frames."""
    sent: list[bytes] = []
    for number in range(first, first + count):
        packets = form.packets(stream_of(form, number), number)
        sent += [packet.tobytes() for packet in packets[:-1]]
        sent += [packets[-1, : form.last_packet_bytes].tobytes(), END_OF_FRAME]
    return [Datagram(content, place) for place, content in enumerate(sent)]


def assemble(form: PacketFormat, contents: Sequence[bytes], batch: int = 64) -> list[AssembledFrame]:
    """Feed datagrams in batches, in a buffer that is used again, as the grabber does."""
    assembler = FrameAssembler(form, clock=lambda: 0.0)
    buffer = np.zeros((batch, form.packet_bytes + 8), np.uint8)
    sizes = np.zeros(batch, np.int64)
    frames: list[AssembledFrame] = []
    for start in range(0, len(contents), batch):
        part = contents[start : start + batch]
        for k, content in enumerate(part):
            sizes[k] = min(len(content), buffer.shape[1])
            buffer[k, : sizes[k]] = np.frombuffer(content[: sizes[k]], np.uint8)
        frames += assembler.feed(buffer[: len(part)], sizes[: len(part)])
    frames += assembler.flush()
    return frames


def lost_packets(frame: AssembledFrame) -> list[int]:
    return [k for first, stop in frame.lost for k in range(first, stop)]


def assert_right(form: PacketFormat, frame: AssembledFrame) -> None:
    """Check that a frame is what was sent, and 0x2000 where packets are lost."""
    expected = stream_of(form, frame.number)
    for k in lost_packets(frame):
        part = expected[k * form.payload_bytes : (k + 1) * form.payload_bytes]
        part[0::2], part[1::2] = 0x20, 0
    np.testing.assert_array_equal(frame.stream, expected)


@pytest.mark.parametrize("form", [SMALL, WRAPPING, PacketFormat(8184 * 3 + 2, 8184)], ids=["small", "wraps", "8184"])
@pytest.mark.parametrize("first", [0, FRAME_NUMBERS - 2])
def test_what_comes_as_sent_is_right_and_without_flags(form: PacketFormat, first: int) -> None:
    frames = assemble(form, [datagram.content for datagram in datagrams_of(form, first, 4)])
    assert [frame.number for frame in frames] == list(range(first, first + 4))
    for frame in frames:
        assert frame.flags == 0
        assert frame.num_lost == frame.doubled == 0
        assert_right(form, frame)


@given(
    lost=st.sets(st.integers(0, 3 * 21 - 1), max_size=40),
    doubled=st.sets(st.integers(0, 3 * 21 - 1), max_size=10),
    batch=st.integers(1, 30),
)
def test_lost_and_doubled_packets_are_told_one_by_one(lost: set[int], doubled: set[int], batch: int) -> None:
    sent = datagrams_of(SMALL, 0, 4)  # all of the last one comes: it closes the others
    arrived = [d.content for d in sent for _ in range(1 + (d.place in doubled)) if d.place not in lost]
    frames = {frame.number: frame for frame in assemble(SMALL, arrived, batch)}
    came = [sum(1 + (k in doubled) for k in range(21 * n, 21 * n + 20) if k not in lost) for n in range(4)]
    began = next(n for n in range(4) if came[n] >= CONFIRMED_BY)  # fewer packets do not begin the first frame
    assert sorted(frames) == list(range(began, 4))
    for number, frame in frames.items():
        missing = [k for k in range(20) if 21 * number + k in lost]
        assert lost_packets(frame) == missing
        assert (FrameFlag.LOST in frame.flags) == bool(missing)
        assert (FrameFlag.FILLER in frame.flags) == (len(missing) == 20)
        assert FrameFlag.CONFLICT not in frame.flags
        assert_right(SMALL, frame)


@given(late=st.dictionaries(st.integers(0, 3 * 586 - 1), st.integers(1, 100), max_size=8))
def test_late_packets_find_their_place_and_are_flagged(late: dict[int, int]) -> None:
    sent = datagrams_of(WRAPPING, 0, 3)
    for place, by in late.items():
        if place % 586 != 585:  # not an end marker
            sent[place].place += by + 0.5
    arrived = sorted(sent, key=lambda datagram: datagram.place)
    frames = assemble(WRAPPING, [datagram.content for datagram in arrived])
    assert [frame.number for frame in frames] == [0, 1, 2]
    for frame in frames:
        assert set(lost_packets(frame)) <= {place % 586 for place in late if place // 586 == frame.number}
        assert_right(WRAPPING, frame)
        own = sent[586 * frame.number : 586 * (frame.number + 1)]
        if any(before.place > after.place for before, after in pairwise(own)):
            assert frame.flags & FrameFlag.ORDER
        else:
            assert frame.flags in (0, FrameFlag.ORDER)


@st.composite
def faulty_streams(draw: st.DrawFn, form: PacketFormat, count: int, whole_frames: bool) -> list[bytes]:
    """Draw what arrives of some frames after any sequence of faults; of whole renumbered frames only where wanted."""
    first = draw(st.sampled_from([0, 7, FRAME_NUMBERS - 2]))
    sent = datagrams_of(form, first, count)
    per_frame = form.num_packets + 1
    places = st.integers(0, len(sent) - 1)
    for place, bits in draw(st.dictionaries(places, st.integers(1, 255), max_size=4)).items():
        if len(sent[place].content) > 8:  # renumbered packets
            content = bytearray(sent[place].content)
            content[draw(st.sampled_from([0, 6, 7]))] ^= bits
            sent[place].content = bytes(content)
    for place, length in draw(st.dictionaries(places, st.integers(0, 30), max_size=3)).items():
        sent[place].content = sent[place].content[:length]  # truncated
    for frame in draw(st.sets(st.integers(0, count - 1), max_size=2 * whole_frames)):
        new = draw(st.integers(0, FRAME_NUMBERS - 1))  # renumbered frames
        for datagram in sent[frame * per_frame : (frame + 1) * per_frame - 1]:
            datagram.content = datagram.content[:6] + bytes(divmod(new, 256)) + datagram.content[8:]
    for place, by in draw(st.dictionaries(places, st.integers(1, form.num_packets - 2), max_size=6)).items():
        sent[place].place += by + 0.5  # late
    doubles = [
        Datagram(sent[k].content, sent[k].place + by)
        for k, by in draw(st.lists(st.tuples(places, st.integers(0, 30)), max_size=4))
    ]
    garbage = [
        Datagram(content, place)
        for content, place in draw(st.lists(st.tuples(st.binary(max_size=40), st.floats(0, len(sent))), max_size=4))
    ]
    lost = draw(st.sets(places, max_size=6)) | {
        (frame + 1) * per_frame - 1
        for frame in draw(st.sets(st.integers(0, count - 1)))  # end markers
    }
    burst = draw(st.tuples(places, st.integers(0, 2 * per_frame)))
    lost |= set(range(burst[0], sum(burst)))
    kept = [datagram for k, datagram in enumerate(sent) if k not in lost]
    return [d.content for d in sorted(kept + doubles + garbage, key=lambda datagram: datagram.place)]


@pytest.mark.parametrize("form", [SMALL, WRAPPING], ids=["small", "wraps"])
@pytest.mark.parametrize("whole_frames", [False, True], ids=["packets", "whole frames"])
@given(data=st.data())
def test_any_sequence_of_faults_gives_right_frames_or_flagged_ones(
    form: PacketFormat, whole_frames: bool, data: st.DataObject
) -> None:
    contents = data.draw(faulty_streams(form, 5, whole_frames))
    frames = assemble(form, contents, data.draw(st.integers(1, 40)))
    numbers = [frame.number for frame in frames]
    if numbers:
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # rows stay beside their positions
    all_numbers = (*range(12), *range(FRAME_NUMBERS - 2, FRAME_NUMBERS + 3))
    number_known = not whole_frames
    for frame in frames:
        assert (frame.num_lost > 0) == (FrameFlag.LOST in frame.flags)
        number_known &= FrameFlag.RENUMBERED not in frame.flags
        if not frame.flags:
            # 16 bits: a stream that begins after the wrap counts from there
            same = [number for number in all_numbers if (number - frame.number) % FRAME_NUMBERS == 0]
            candidates = same if number_known else all_numbers
            assert any(np.array_equal(frame.stream, stream_of(form, number)) for number in candidates)


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_garbage_gives_no_frames_without_flags(contents: list[bytes]) -> None:
    assert all(frame.flags for frame in assemble(SMALL, contents))


def test_a_lost_frame_leaves_a_flagged_row() -> None:
    sent = [d.content for d in datagrams_of(SMALL, 0, 4)]
    frames = assemble(SMALL, sent[:21] + sent[42:])
    assert [frame.number for frame in frames] == [0, 1, 2, 3]
    assert frames[1].flags == FrameFlag.FILLER | FrameFlag.LOST
    assert (frames[1].stream.view(">u2") == 0x2000).all()
    assert [frame.flags for frame in frames][::2] == [0, FrameFlag.ORDER]
    assert frames[3].flags == 0


def test_many_lost_frames_are_counted_when_packets_agree() -> None:
    sent = [d.content for d in datagrams_of(SMALL, 0, 40)]
    frames = assemble(SMALL, sent[:21] + sent[39 * 21 :])
    assert [frame.number for frame in frames] == list(range(40))
    assert sum(FrameFlag.FILLER in frame.flags for frame in frames) == 38
    assert frames[39].flags == FrameFlag.ORDER
    assert_right(SMALL, frames[39])


def test_a_single_packet_with_a_far_frame_number_changes_nothing_else() -> None:
    sent = [d.content for d in datagrams_of(SMALL, 0, 3)]
    sent[25] = sent[25][:6] + bytes([50, 0]) + sent[25][8:]
    frames = assemble(SMALL, sent)
    assert [frame.flags for frame in frames] == [0, FrameFlag.LOST, 0]
    assert lost_packets(frames[1]) == [4]


def test_a_counter_that_begins_anew_is_flagged_and_counts_on() -> None:
    sent = [d.content for d in datagrams_of(SMALL, 5000, 2) + datagrams_of(SMALL, 0, 2)]
    frames = assemble(SMALL, sent)
    assert [frame.number for frame in frames] == [5000, 5001, 5002, 5003]
    assert frames[2].flags == FrameFlag.RENUMBERED | FrameFlag.ORDER
    assert frames[3].flags == 0
    np.testing.assert_array_equal(frames[3].stream, stream_of(SMALL, 1))


def test_a_burst_longer_than_half_a_wrap_is_ambiguous() -> None:
    sent = [d.content for d in datagrams_of(WRAPPING, 0, 2)]
    frame, following = assemble(WRAPPING, sent[:100] + sent[300:])
    assert FrameFlag.AMBIGUOUS in frame.flags
    assert lost_packets(frame) == list(range(100, 300))
    assert_right(WRAPPING, frame)
    assert following.flags == 0


def test_one_renumbered_packet_does_not_move_the_others() -> None:
    sent = [d.content for d in datagrams_of(WRAPPING, 0, 2)]
    sent[5] = bytes([138]) + sent[5][1:]
    frame, following = assemble(WRAPPING, sent)
    assert FrameFlag.LOST in frame.flags
    assert FrameFlag.CONFLICT in frame.flags
    assert set(lost_packets(frame)) == {5}
    wrong = np.flatnonzero(frame.stream != stream_of(WRAPPING, 0)) // WRAPPING.payload_bytes
    assert set(wrong) <= {5, 138}
    assert following.flags == 0


def test_a_lost_end_marker_flags_the_frames_beside_it() -> None:
    sent = [d.content for d in datagrams_of(SMALL, 0, 4)]
    frames = assemble(SMALL, sent[:41] + sent[42:])
    assert [frame.flags for frame in frames] == [0, FrameFlag.ORDER, FrameFlag.ORDER, 0]
    for frame in frames:
        assert_right(SMALL, frame)


def test_different_packets_of_one_number_are_a_conflict() -> None:
    sent = [d.content for d in datagrams_of(SMALL, 0, 1)]
    other = sent[3][:8] + bytes(16)
    (frame,) = assemble(SMALL, [*sent[:4], other, *sent[4:]])
    assert frame.flags == FrameFlag.CONFLICT
    assert_right(SMALL, frame)


@pytest.mark.parametrize(
    ("frame_bytes", "payload_bytes", "message"),
    [(0, 4096, "frame_bytes = 0"), (15, 8, "frame_bytes = 15"), (16, 7, "payload_bytes = 7"), (16, 70000, "UDP")],
)
def test_a_format_that_cannot_be_is_refused(frame_bytes: int, payload_bytes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PacketFormat(frame_bytes, payload_bytes)


def test_numbers_of_packets_of_the_cosmic_frame() -> None:
    form = PacketFormat(2 * 1040 * 1152)
    assert (form.num_packets, form.packet_bytes, form.last_packet_bytes) == (585, 4104, 4104)
    assert PacketFormat(2 * 1040 * 1152, 8184).num_packets == 293
    packets = PacketFormat(40, 16).packets(np.arange(40, dtype=np.uint8), 0x1234)
    assert packets[2, :16].tobytes() == bytes.fromhex("02F0F1F2F3F41234") + bytes(range(32, 40))
    assert is_packet(packets, np.array([24, 23, 16]), PacketFormat(40, 16)).tolist() == [True, False, True]
    assert has_magic(packets).all()
