"""From the virtual camera over UDP to a file: right frames, or flagged ones, and a list of what was lost."""

from __future__ import annotations

import dataclasses
import json
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_camera import NUM_PACKETS, PAYLOAD, QUICK, SMALL, GrabbedFile, frame_of, full_disk

from nsbluesky import disk_space
from nsbluesky.camera import grabber as grabber_module
from nsbluesky.camera.assembler import AssembledFrame, FrameFlag
from nsbluesky.camera.descramble import descramble, scramble, stream_bytes
from nsbluesky.camera.frame_file import FrameFile
from nsbluesky.camera.grabber import COUNTS, Grabber, GrabberError
from nsbluesky.camera.packets import END_OF_FRAME, PacketFormat
from nsbluesky.camera.virtual_fccd import PacketFaults, SentCounts, VirtualFCCD
from nsbluesky.cleaning.clean import clean
from nsbluesky.cleaning.darks import DarkAccumulator
from nsbluesky.cleaning.flags import FrameFlag as CleanFlag
from nsbluesky.cleaning.flags import weights_of
from nsbluesky.cleaning.layout import FCCDLayout, get_layout
from nsbluesky.cleaning.plan import make_plan
from nsbluesky.disk_space import MARGIN_BYTES
from nsbluesky.settings import CleaningSettings, DetectorMode

FORM = PacketFormat(stream_bytes(SMALL), PAYLOAD)


def send(grabber: Grabber, numbers: Sequence[int], faults: PacketFaults | None = None, **changes: Any) -> SentCounts:
    """Send the frames of these numbers, which follow one another."""
    options: dict[str, Any] = {"payload_bytes": PAYLOAD, "first_number": numbers[0], "faults": faults} | changes
    with VirtualFCCD(grabber.address, SMALL, **options) as camera:
        return camera.send(frame_of(number) for number in numbers)


def datagrams_of(numbers: Sequence[int]) -> list[bytes]:
    """Return what the camera sends for these frames."""
    sent: list[bytes] = []
    for number in numbers:
        packets = FORM.packets(scramble(frame_of(number), SMALL), number)
        sent += [packet.tobytes() for packet in packets[:-1]]
        sent += [packets[-1, : FORM.last_packet_bytes].tobytes(), END_OF_FRAME]
    return sent


def grab(path: Path, datagrams: Sequence[bytes]) -> tuple[dict[str, Any], GrabbedFile]:
    """Send datagrams as they are, and return the summary and what was written."""
    with Grabber(SMALL, QUICK) as grabber, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for datagram in datagrams:
            udp.sendto(datagram, grabber.address)
        summary = grabber.record(path)
    return summary, GrabbedFile(path)


def words_or_lost(number: int, lost: Sequence[Sequence[int]]) -> npt.NDArray[np.uint16]:
    """Return a frame with 0x2000 where its packets are lost."""
    stream = scramble(frame_of(number), SMALL)
    for first, stop in lost:
        stream.view(">u2")[first * PAYLOAD // 2 : stop * PAYLOAD // 2] = 0x2000
    return descramble(stream, SMALL)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "frames.h5"


def test_what_is_sent_is_in_the_file(path: Path) -> None:
    with Grabber(SMALL, QUICK) as grabber:
        send(grabber, range(65534, 65540))
        told: list[int] = []
        summary = grabber.record(path, 6, lambda frame: told.append(frame.number))
    written = GrabbedFile(path)
    np.testing.assert_array_equal(written.frames, [frame_of(number) for number in range(65534, 65540)])
    assert written.numbers == told == list(range(65534, 65540))
    assert written.flags == written.lost_packets == [0] * 6
    assert written.lost == []
    assert (np.diff(written.times_s) >= 0).all()
    assert (summary["frames"], summary["exact_frames"], summary["lost"]) == (6, 6, [])
    with h5py.File(path) as file:
        assert json.loads(file.attrs[COUNTS]) == summary


def test_frames_go_to_the_cache_while_many_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eleven wait behind the first one; a quarter of the queue, the last four, go directly to the disk."""
    direct: list[bool] = []
    append = grabber_module.FrameFile.append

    def noted(file: FrameFile, frame: npt.NDArray[np.uint16], **options: Any) -> int:
        direct.append(options["direct"])
        return append(file, frame, **options)

    monkeypatch.setattr(grabber_module.FrameFile, "append", noted)
    with Grabber(SMALL, dataclasses.replace(QUICK, queue_frames=16)) as grabber:
        send(grabber, range(12))

        def wait_for_all(frame: AssembledFrame) -> None:
            for thread in threading.enumerate():
                if thread.name == "grabber":
                    thread.join(10.0)

        assert grabber.record(path, 12, wait_for_all)["exact_frames"] == 12
    assert direct[1:] == [False] * 7 + [True] * 4


def test_it_ends_after_as_many_frames_as_are_wanted_and_records_once(tmp_path: Path) -> None:
    with Grabber(SMALL, QUICK) as grabber:
        send(grabber, range(3))
        assert grabber.record(tmp_path / "first.h5", 2)["frames"] == 2
        with pytest.raises(GrabberError, match="has recorded already"):
            grabber.record(tmp_path / "second.h5", 1)
    assert GrabbedFile(tmp_path / "first.h5").numbers == [0, 1]


@pytest.mark.parametrize(
    "faults",
    [
        PacketFaults(lost=0.1),
        PacketFaults(doubled=0.2),
        PacketFaults(late=0.1, late_by=5),
        PacketFaults(renumbered=0.05),
        PacketFaults(lost_ends=0.5),
        PacketFaults(lost_frames=0.4),
        PacketFaults(lost=0.05, doubled=0.05, late=0.05, renumbered=0.02, lost_ends=0.2, lost_frames=0.1),
    ],
    ids=["lost", "doubled", "late", "renumbered", "lost ends", "lost frames", "all"],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_each_fault_leaves_right_frames_or_flagged_ones(path: Path, faults: PacketFaults, seed: int) -> None:
    with Grabber(SMALL, QUICK) as grabber:
        sent = send(grabber, range(10), dataclasses.replace(faults, seed=seed))
        summary = grabber.record(path)
    written = GrabbedFile(path)
    assert written.numbers == list(range(written.numbers[0], written.numbers[-1] + 1))
    for number, frame, flags in zip(written.numbers, written.frames, written.flags, strict=True):
        if not flags:
            np.testing.assert_array_equal(frame, frame_of(number))
    assert summary["exact_frames"] == written.flags.count(0)
    missing = NUM_PACKETS * (10 - summary["frames"])  # of lost frames before the first and after the last
    if not (faults.late or faults.renumbered):
        assert summary["lost_packets"] + missing == sent.lost_packets
        for k, number in enumerate(written.numbers):
            lost = [(first, stop) for of, first, stop in written.lost if of == number]
            np.testing.assert_array_equal(written.frames[k], words_or_lost(number, lost))
    if not faults.renumbered:
        assert summary["lost_packets"] == sum(written.lost_packets)
        assert summary["frames_in_conflict"] == 0
    if faults == PacketFaults(doubled=0.2):
        assert summary["doubled_packets"] == sent.doubled > 0
        assert summary["exact_frames"] == 10
    elif faults == PacketFaults(lost_frames=0.4):
        assert summary["lost_frames"] + 10 - summary["frames"] == sent.lost_frames > 0
        assert any(line.endswith("packets 0 to 13") for line in summary["lost"])
    else:
        assert summary["exact_frames"] < 10


@st.composite
def arrivals(draw: st.DrawFn) -> list[bytes]:
    """Draw what arrives of four frames after any sequence of faults."""
    contents = datagrams_of(range(4))
    sent = list(enumerate(contents))
    places = st.integers(0, len(sent) - 1)
    for k, bits in draw(st.dictionaries(places, st.integers(1, 255), max_size=3)).items():  # renumbered, spoilt
        content = bytearray(sent[k][1])
        content[draw(st.integers(0, 7))] ^= bits
        sent[k] = (k, bytes(content))
    for k, length in draw(st.dictionaries(places, st.integers(0, PAYLOAD), max_size=2)).items():  # truncated
        sent[k] = (k, sent[k][1][:length])
    moves = draw(st.lists(st.tuples(places, st.integers(-20, 20), st.booleans()), max_size=5))
    moved = [(k + by + 0.5, sent[k][1]) for k, by, _ in moves]  # late, early, doubled
    gone = {k for k, _, doubled in moves if not doubled} | draw(st.sets(places, max_size=4))
    start, length = draw(places), draw(st.integers(0, 2 * NUM_PACKETS))  # a burst
    gone |= set(range(start, start + length))
    foreign = [
        (place, content) for place, content in draw(st.lists(st.tuples(st.floats(0, 60), st.binary(max_size=50))))
    ]
    kept = [item for k, item in enumerate(sent) if k not in gone]
    return [content for _, content in sorted([*kept, *moved, *foreign], key=lambda item: item[0])]


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(arrivals())
def test_any_sequence_of_faults_leaves_right_frames_or_flagged_ones(contents: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            summary, written = grab(Path(folder) / "frames.h5", contents)
        except GrabberError:  # too little came for a single frame
            assert sum(len(content) >= FORM.last_packet_bytes for content in contents) < 3 * NUM_PACKETS
            return
    assert len(written.frames) == summary["frames"]
    for number, frame, flags, num_lost in zip(
        written.numbers, written.frames, written.flags, written.lost_packets, strict=True
    ):
        if not flags:
            assert FrameFlag.RENUMBERED in FrameFlag(max(written.flags)) or np.array_equal(frame, frame_of(number))
            assert any(np.array_equal(frame, frame_of(k)) for k in range(4))
        assert (num_lost > 0) == bool(flags & FrameFlag.LOST)
        if flags & (FrameFlag.FILLER | FrameFlag.CONFLICT):
            assert (frame == 0x2000).all()


@pytest.mark.parametrize("doubled", [False, True])
def test_a_packet_lost_or_doubled_in_each_frame_is_no_other_layout(path: Path, doubled: bool) -> None:
    """Frames with equally many packets too few or too many are recorded, and what is wrong with them is told."""
    sent = [content for number in range(5) for content in _with_one(datagrams_of([number]), number, doubled)]
    summary, written = grab(path, sent)
    assert summary["frames"] == 5
    assert summary["doubled_packets" if doubled else "lost_packets"] == 5
    if not doubled:
        assert written.lost == [[number, number, number + 1] for number in range(5)]


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few datagrams come at once, as they do of a camera whose frames have hundreds."""
    monkeypatch.setattr(grabber_module, "BATCH", 4)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("first_lost", [NUM_PACKETS - 1, NUM_PACKETS - 2, 4])
def test_the_end_of_each_frame_lost_is_no_other_layout(
    path: Path, first_lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames of fewer packets than any layout has are recorded, and what is wrong with them is told."""
    monkeypatch.setattr(grabber_module, "LAYOUTS", {"small": SMALL} | OTHERS)
    sent = [datagrams_of([number]) for number in range(6)]
    summary, written = grab(path, [content for one in sent for content in (*one[:first_lost], one[-1])])
    assert (summary["frames"], summary["exact_frames"]) == (6, 0)
    assert written.lost == [[number, first_lost, NUM_PACKETS] for number in range(6)]
    for number, frame in enumerate(written.frames):
        np.testing.assert_array_equal(frame, words_or_lost(number, [(first_lost, NUM_PACKETS)]))


@pytest.mark.usefixtures("small_batches")
def test_end_markers_lost_are_no_other_layout(path: Path) -> None:
    """Every other one: there are twice as many packets between two of them."""
    sent = [content for number in range(8) for content in datagrams_of([number])[: -1 if number % 2 else None]]
    summary, written = grab(path, sent)
    np.testing.assert_array_equal(written.frames, [frame_of(number) for number in range(8)])
    assert summary["lost_packets"] == 0


def _with_one(contents: list[bytes], place: int, doubled: bool) -> list[bytes]:
    return [*contents[:place], *(2 * [contents[place]] if doubled else []), *contents[place + 1 :]]


def test_truncated_and_foreign_datagrams_are_counted(path: Path) -> None:
    sent = datagrams_of(range(3))
    sent[20] = sent[20][:500]
    sent[7:7] = [b"", b"hello", bytes(2000)]
    summary, written = grab(path, sent)
    assert summary["bad_datagrams"] == 4
    assert written.flags == [0, FrameFlag.LOST, 0]
    assert written.lost == [[1, 5, 6]]
    assert summary["lost"] == ["frame 1: packets 5 to 5"]
    np.testing.assert_array_equal(written.frames[1], words_or_lost(1, [(5, 6)]))


def test_a_frame_in_conflict_holds_nothing_that_may_be_wrong(path: Path) -> None:
    sent = datagrams_of(range(2))
    other = sent[3][:8] + bytes(PAYLOAD)
    summary, written = grab(path, [*sent[:4], other, *sent[4:]])
    assert written.flags == [FrameFlag.CONFLICT, 0]
    assert (written.frames[0] == 0x2000).all()
    assert summary["frames_in_conflict"] == 1


def test_packets_of_another_size_name_the_payload(path: Path) -> None:
    with Grabber(SMALL, QUICK) as grabber:
        send(grabber, range(3), payload_bytes=2048)
        with pytest.raises(GrabberError, match=r"packets of 2048 bytes: expected 1024, .* set the payload to 2048"):
            grabber.record(path)
    assert not path.exists()


def halves(rows: int, columns: int, columns_per_adc: int) -> FCCDLayout:
    both = ((0, rows // 2), (rows // 2, rows))
    return FCCDLayout(rows, columns, columns_per_adc, (0, columns_per_adc - 1), both, both)


TALLER = halves(8, 1152, 12)
"""18 packets, all full."""
OTHERS = {
    "taller": TALLER,
    "tallest": halves(12, 1152, 12),  # 27, all full
    "flat": halves(4, 1152, 12),  # 9, all full
    "narrow": halves(6, 960, 10),  # 12, the last one short
}


@pytest.mark.parametrize(
    ("own", "sent", "found"),
    [
        (SMALL, "taller", "18 packets of 1024 bytes: expected 14, for 6 × 1152"),
        (TALLER, "tallest", "27 packets of 1024 bytes: expected 18, for 8 × 1152"),  # each full of wrong packets
        (SMALL, "flat", "9 packets of 1024 bytes: expected 14, for 6 × 1152"),
        (SMALL, "narrow", "11 packets of 1024 bytes: expected 14, for 6 × 1152"),  # and the short one
    ],
)
@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("content", [0, 1])
def test_frames_of_another_size_name_the_layout(
    path: Path, own: FCCDLayout, sent: str, found: str, content: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grabber_module, "LAYOUTS", OTHERS | {"small": SMALL})
    rng = np.random.default_rng(0)
    with Grabber(own, QUICK) as grabber:
        with VirtualFCCD(grabber.address, OTHERS[sent], payload_bytes=PAYLOAD) as camera:
            camera.send(content * rng.integers(0, 2**16, OTHERS[sent].shape, np.uint16) for _ in range(5))
        with pytest.raises(GrabberError, match=f"frames of {found}; the layout may be {sent}$"):
            grabber.record(path, 100)
    assert not path.exists()


def test_larger_frames_of_no_known_layout_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grabber_module, "LAYOUTS", {"small": SMALL})
    with Grabber(SMALL, QUICK) as grabber:
        with VirtualFCCD(grabber.address, TALLER, payload_bytes=PAYLOAD) as camera:
            camera.send([np.zeros(TALLER.shape, np.uint16)] * 5)
        with pytest.raises(GrabberError, match=r"frames of 18 packets .* no layout known here has that size"):
            grabber.record(path, 100)


def test_something_else_that_sends_here_is_no_camera(path: Path) -> None:
    with pytest.raises(GrabberError, match="3 datagrams came that are no packets of a Fast CCD"):
        grab(path, [bytes(200), b"hello", bytes(1032)])


def test_no_camera(path: Path) -> None:
    with Grabber(SMALL, QUICK) as grabber:
        port = grabber.address[1]
        with pytest.raises(GrabberError, match=rf"no packet came to 127\.0\.0\.1:{port} within 0\.05 s"):
            grabber.record(path, 5)
    assert not path.exists()


def test_a_port_that_is_taken() -> None:
    with Grabber(SMALL, QUICK) as grabber:
        settings = dataclasses.replace(QUICK, port=grabber.address[1])
        with pytest.raises(GrabberError, match="in use: end the other grabber, or choose another port"):
            Grabber(SMALL, settings)
        port = grabber.address[1]
    Grabber(SMALL, dataclasses.replace(QUICK, port=port)).close()


def test_an_address_of_another_machine() -> None:
    with pytest.raises(GrabberError, match=r"cannot listen at 192\.0\.2\.1:0: .*expected an address of this machine"):
        Grabber(SMALL, dataclasses.replace(QUICK, host="192.0.2.1"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"port": 70000}, "port = 70000"),
        ({"timeout_s": 0.0}, "timeout_s = 0"),
        ({"payload_bytes": 7}, "payload_bytes = 7"),
        ({"queue_frames": 0}, "queue_frames = 0"),
        ({"queue_frames": 10**9}, "queue_frames = 1000000000: expected 1 to 10000"),
        ({"buffer_bytes": 2**31}, "buffer_bytes = 2147483648: expected 1 to"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grabber(SMALL, dataclasses.replace(QUICK, **changes))


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "frames.h5"
    with Grabber(SMALL, QUICK) as grabber:
        with pytest.raises(GrabberError, match=r"No such file or directory.*expected a file in a writable folder"):
            grabber.record(tmp_path / "nowhere" / "frames.h5")
        path.write_text("precious")
        with pytest.raises(GrabberError, match=r"frames\.h5 exists: expected a new file"):
            grabber.record(path)
    assert path.read_text() == "precious"


def test_a_full_disk_leaves_the_frames_before(path: Path) -> None:
    with Grabber(SMALL, QUICK) as grabber:
        send(grabber, range(10))
        with full_disk(60_000), pytest.raises(GrabberError, match=r"cannot write frame \d to .*File too large.*room"):
            grabber.record(path)
    with h5py.File(path, "r", swmr=True) as file:
        frames = file["entry/data/data"][()]
    assert 0 < len(frames) < 10
    np.testing.assert_array_equal(frames, [frame_of(number) for number in range(len(frames))])


def test_a_disk_that_fills_up_is_left_with_space_to_close_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([MARGIN_BYTES * 2] * 3 + [MARGIN_BYTES])
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: next(free))
    with Grabber(SMALL, QUICK) as grabber:
        send(grabber, range(6))
        with pytest.raises(
            GrabberError, match=r"cannot write frame 3 .*No space left.* the 3 frames before it are there"
        ):
            grabber.record(path)
    written = GrabbedFile(path)
    np.testing.assert_array_equal(written.frames, [frame_of(number) for number in range(3)])


def test_a_stop_in_the_middle_keeps_what_came(path: Path) -> None:
    with Grabber(SMALL, dataclasses.replace(QUICK, timeout_s=60.0)) as grabber:
        sent = datagrams_of(range(3))
        recorded = threading.Semaphore(0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:

            def stop_within_the_third_frame() -> None:
                for datagram in sent[: 2 * (NUM_PACKETS + 1)]:
                    udp.sendto(datagram, grabber.address)
                recorded.acquire()
                recorded.acquire()
                grabber.stop()

            sender = threading.Thread(target=stop_within_the_third_frame)
            sender.start()
            summary = grabber.record(path, each=lambda _: recorded.release())
            sender.join()
    written = GrabbedFile(path)
    assert (summary["frames"], summary["exact_frames"]) == (2, 2)
    np.testing.assert_array_equal(written.frames, [frame_of(0), frame_of(1)])


def test_a_stop_within_a_frame_flags_it(path: Path) -> None:
    summary, written = grab(path, datagrams_of(range(2))[: NUM_PACKETS + 1 + 6])
    assert written.flags == [0, FrameFlag.LOST | FrameFlag.ORDER]
    assert written.lost == [[1, 6, 14]]
    assert summary["exact_frames"] == 1


def test_an_error_while_recording_ends_the_receiver(path: Path) -> None:
    def fail(frame: object) -> None:
        raise RuntimeError("not today")

    with Grabber(SMALL, QUICK) as grabber:
        send(grabber, range(3))
        with pytest.raises(RuntimeError, match="not today"):
            grabber.record(path, each=fail)
    assert not any(thread.name == "grabber" for thread in threading.enumerate())


def test_many_losses_are_listed_in_part_and_kept_in_the_file(path: Path) -> None:
    with Grabber(SMALL, dataclasses.replace(QUICK, timeout_s=5.0)) as grabber:
        sender = threading.Thread(target=_send_every_other_packet, args=(grabber, 20))
        sender.start()
        summary = grabber.record(path, 20)
        sender.join()
    assert len(summary["lost"]) == 101
    assert summary["lost"][-1] == f"and {len(GrabbedFile(path).lost) - 100} more"


def _send_every_other_packet(grabber: Grabber, count: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for number in range(count + 4):
            for datagram in datagrams_of([number])[:NUM_PACKETS:2]:
                udp.sendto(datagram, grabber.address)


def lit_frames(
    rng: np.random.Generator, layout: FCCDLayout, count: int, light: bool
) -> Iterator[npt.NDArray[np.uint16]]:
    """Make frames of a flat field of 5 photons a pixel, 30 ADU each; overscan stays dark."""
    photons = np.zeros((layout.rows, layout.adcs_per_half, layout.columns_per_adc))
    photons[:, :, layout.data_columns] = 5.0 * light
    for _ in range(count):
        adu = 4096 + 30 * rng.poisson(photons) + rng.normal(0, 3, photons.shape)
        yield np.rint(adu).astype(np.uint16).reshape(layout.shape)


def test_cleaning_sees_what_the_grabber_lost(path: Path, rng: np.random.Generator) -> None:
    """Over UDP, into the file and through the cleaning: lost packets are masked pixels, lost frames weigh nothing."""
    mode = DetectorMode(48, 1152, 12, (0, 11), (2, 22))
    options = CleaningSettings(
        detector_mode=mode, adu_per_photon=30.0, crop_px=40, frame_px=20, center_px=(19.5, 479.5), overscan="median"
    )
    layout = get_layout(options, (48, 1152))
    accumulator = DarkAccumulator(layout)
    for dark in lit_frames(rng, layout, 25, light=False):
        accumulator.add(dark[np.newaxis])
    plan = make_plan(options, layout, accumulator.result(options), (19.5, 479.5), energy_eV=900.0)
    form = PacketFormat(stream_bytes(layout), 4096)
    sent: list[bytes] = []
    for number, frame in enumerate(lit_frames(rng, layout, 4, light=True)):
        packets = [packet.tobytes() for packet in form.packets(scramble(frame, layout), number)]
        if number == 1:
            del packets[12:14]
        if number == 2:
            continue  # nothing of it comes
        sent += [*packets[:-1], packets[-1][: form.last_packet_bytes], END_OF_FRAME]
    grabber_settings = dataclasses.replace(QUICK, payload_bytes=4096, buffer_bytes=8 << 20, timeout_s=5.0)
    with Grabber(layout, grabber_settings) as grabber:
        recording = threading.Thread(target=grabber.record, args=(path, 4))
        recording.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            for datagram in sent:
                udp.sendto(datagram, grabber.address)
        recording.join()
    written = GrabbedFile(path)
    assert written.lost == [[1, 12, 14], [2, 0, form.num_packets]]
    cleaned = clean(written.frames, plan)
    lost, filler = CleanFlag.LOST_PACKETS, CleanFlag.LOST_PACKETS | CleanFlag.CORRUPT
    assert cleaned.flags.tolist() == [0, lost, filler, 0]
    assert weights_of(cleaned.flags).tolist() == [1, 1, 0, 1]
    masked = np.isnan(cleaned.frames)
    assert masked[1].any() and not masked[1].all()
    assert masked[2].all()
    assert not masked[[0, 3]].any()
    whole = cleaned.frames[~masked]
    assert whole.mean() == pytest.approx(4 * 5.0, rel=0.03)
    assert whole.min() > 1  # nothing of 0x2000 is taken for light or for its absence
    assert whole.max() < 50
