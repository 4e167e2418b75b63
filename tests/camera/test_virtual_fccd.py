"""The virtual camera: what it sends, and what goes wrong as planned."""

import socket
import threading

import numpy as np
import pytest
from small_camera import NUM_PACKETS, PAYLOAD, SMALL, frame_of

from nsbluesky.camera.descramble import scramble
from nsbluesky.camera.packets import END_OF_FRAME
from nsbluesky.camera.virtual_fccd import PacketFaults, VirtualFCCD


@pytest.fixture
def receiver():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        yield udp


def received(receiver):
    receiver.setblocking(False)
    found = []
    while True:
        try:
            found.append(receiver.recv(4096))
        except BlockingIOError:
            return found


def send(receiver, count=3, faults=None, **options):
    with VirtualFCCD(
        receiver.getsockname(), SMALL, payload_bytes=PAYLOAD, faults=faults, first_number=65535, **options
    ) as camera:
        counts = camera.send(frame_of(k) for k in range(count))
    return counts, received(receiver)


@pytest.mark.parametrize("rate_hz", [0, 2000])
def test_frames_are_packets_with_numbers_that_wrap(receiver, rate_hz):
    counts, datagrams = send(receiver, rate_hz=rate_hz)
    assert counts.frames == 3
    assert len(datagrams) == 3 * (NUM_PACKETS + 1)
    for k in range(3):
        *packets, end = datagrams[k * (NUM_PACKETS + 1) : (k + 1) * (NUM_PACKETS + 1)]
        assert end == END_OF_FRAME
        assert [packet[0] for packet in packets] == list(range(NUM_PACKETS))
        assert {packet[1:8] for packet in packets} == {
            bytes.fromhex("F0F1F2F3F4") + [b"\xff\xff", b"\0\0", b"\0\1"][k]
        }
        assert b"".join(packet[8:] for packet in packets) == scramble(frame_of(k), SMALL).tobytes()


def test_losses_are_as_counted(receiver):
    counts, datagrams = send(receiver, 8, PacketFaults(lost=0.1, lost_ends=0.3, lost_frames=0.2, seed=3))
    ends = datagrams.count(END_OF_FRAME)
    assert len(datagrams) - ends == 8 * NUM_PACKETS - counts.lost_packets
    assert ends == 8 - counts.lost_ends
    assert counts.lost_packets > NUM_PACKETS * counts.lost_frames > 0
    assert counts.lost_ends > counts.lost_frames


def test_doubled_and_late_packets_all_come(receiver):
    faults = PacketFaults(doubled=0.2, late=0.2, late_by=30, seed=1)
    with VirtualFCCD(receiver.getsockname(), SMALL, payload_bytes=PAYLOAD, faults=faults) as camera:
        camera.send(frame_of(k) for k in range(4))
        packets = [d for d in received(receiver) if d != END_OF_FRAME]
    due = {(k, n) for k in range(3) for n in range(NUM_PACKETS)}  # of the last frame some are still to come
    came = [(packet[7], packet[0]) for packet in packets]
    assert due <= set(came)
    assert len(came) > len(set(came))
    assert camera.counts.doubled > 0 and camera.counts.late > 0
    assert came != sorted(came)


def test_renumbered_packets_have_another_number(receiver):
    counts, datagrams = send(receiver, 4, PacketFaults(renumbered=0.1, seed=2))
    packets = [datagram for datagram in datagrams if datagram != END_OF_FRAME]
    expected = [(*divmod((65535 + k // NUM_PACKETS) % 65536, 256), k % NUM_PACKETS) for k in range(len(packets))]
    wrong = sum((*packet[6:8], packet[0]) != number for packet, number in zip(packets, expected, strict=True))
    assert wrong == counts.renumbered > 0


def test_the_same_seed_gives_the_same_faults(receiver):
    faults = PacketFaults(lost=0.1, late=0.1, renumbered=0.1, doubled=0.1, seed=5)
    first, again, other = (send(receiver, 4, f)[1] for f in (faults, faults, PacketFaults(lost=0.1, seed=6)))
    assert first == again
    assert first != other


def test_a_stop_ends_it_after_the_frame_at_hand(receiver):
    sent = []
    camera = VirtualFCCD(receiver.getsockname(), SMALL, payload_bytes=PAYLOAD)

    def frames():
        while True:
            sent.append(None)
            if len(sent) == 3:
                stopper = threading.Thread(target=camera.stop)
                stopper.start()
                stopper.join()
            yield frame_of(0)

    assert camera.send(frames()).frames == 2
    camera.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"lost": 1.5}, "lost = 1.5: expected a probability"), ({"late_by": 0}, "late_by = 0: expected at least 1")],
)
def test_faults_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        PacketFaults(**changes)


def test_a_receiver_that_is_not_known():
    with pytest.raises(ValueError, match=r"cannot send to nowhere\.invalid:9: .*: expected the address"):
        VirtualFCCD(("nowhere.invalid", 9), SMALL)


def test_a_rate_or_a_frame_that_cannot_be(receiver):
    with pytest.raises(ValueError, match="rate_hz = -1: expected 0 or more"):
        VirtualFCCD(receiver.getsockname(), SMALL, rate_hz=-1)
    with (
        VirtualFCCD(receiver.getsockname(), SMALL) as camera,
        pytest.raises(ValueError, match=r"frame of \(5, 5\): expected \(6, 1152\)"),
    ):
        camera.send([np.zeros((5, 5), np.uint16)])
