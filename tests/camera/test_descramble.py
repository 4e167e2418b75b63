import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from nsbluesky.camera.descramble import channels_as_sent, descramble, scramble, stream_bytes
from nsbluesky.cleaning.layout import LAYOUTS, FCCDLayout

COSMIC = LAYOUTS["cosmic"]
SMALL = FCCDLayout(6, 1152, 12, (0, 11), ((0, 3), (3, 6)), ((0, 3), (3, 6)))


def by_definition(stream, layout):
    """Return the frame, written out as the camera's description says it."""
    sent = stream.view(">u2").astype(np.uint16).reshape(-1, 192)
    rows, per_adc = layout.rows // 2, layout.columns_per_adc
    read = sent.reshape(rows, per_adc, 192)[:, :, channels_as_sent()]
    flat = read.swapaxes(1, 2).reshape(rows, 192 * per_adc)
    half = 96 * per_adc
    return np.concatenate([flat[:, half:], flat[:, :half][::-1, ::-1]])


def test_every_channel_is_sent_once():
    channels = channels_as_sent()
    np.testing.assert_array_equal(np.sort(channels), np.arange(192))
    assert (channels[0], channels[1], channels[12], channels[191]) == (16 * 11 + 12, 16 * 10 + 12, 16 * 11 + 13, 3)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_stream_is_read_as_the_camera_sends_it(name):
    layout = LAYOUTS[name]
    stream = np.random.default_rng(0).integers(0, 256, stream_bytes(layout), dtype=np.uint8)
    np.testing.assert_array_equal(descramble(stream, layout), by_definition(stream, layout))


@settings(max_examples=20)
@given(arrays(np.uint16, SMALL.shape))
def test_there_and_back(frame):
    stream = scramble(frame, SMALL)
    assert stream.shape == (stream_bytes(SMALL),) and stream.dtype == np.uint8
    np.testing.assert_array_equal(descramble(stream, SMALL), frame)


def test_a_frame_goes_where_it_is_told():
    frame = np.arange(SMALL.rows * SMALL.columns, dtype=np.uint16).reshape(SMALL.shape)
    out = np.empty(SMALL.shape, np.uint16)
    assert descramble(scramble(frame, SMALL), SMALL, out) is out
    np.testing.assert_array_equal(out, frame)


def test_what_does_not_fit_is_refused():
    frame = np.zeros(SMALL.shape, np.uint16)
    with pytest.raises(ValueError, match=r"frame of \(5, 1152\): expected \(6, 1152\)"):
        scramble(frame[:5], SMALL)
    with pytest.raises(ValueError, match="stream"):
        descramble(np.zeros(10, np.uint8), SMALL)
    with pytest.raises(ValueError, match="out"):
        descramble(scramble(frame, SMALL), SMALL, frame[::-1])
    with pytest.raises(ValueError, match="two equal halves"):
        stream_bytes(dataclasses.replace(COSMIC, halves=((0, 500), (500, 1040)), good_rows=((5, 485), (555, 1035))))
