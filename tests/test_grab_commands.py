"""``nsbluesky camera`` and ``nsbluesky grab``: a rehearsal over loopback, and what they say where it fails."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from nsbluesky.camera.grabber import Grabber
from nsbluesky.camera.virtual_fccd import VirtualFCCD
from nsbluesky.cleaning.layout import LAYOUTS
from nsbluesky.cli import main
from nsbluesky.commands import camera, grab

ROWS, COLUMNS = LAYOUTS["csx"].shape
GRAB = ("--layout", "csx", "--payload", "8184", "--timeout-s", "10")
"""Few packets a frame, so that the kernel's usual buffer holds what is sent at once."""


@pytest.fixture
def port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        return int(udp.getsockname()[1])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two frames in a file as a camera writes it."""
    path = tmp_path / "raw.h5"
    with h5py.File(path, "w") as file:
        file["entry/data/data"] = np.random.default_rng(0).integers(0, 2**16, (2, ROWS, COLUMNS), dtype=np.uint16)
    return path


def call(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, dict[str, Any], str]:
    """Run a command and return its exit code, its summary and what it said."""
    capsys.readouterr()
    code = main([str(argument) for argument in (*arguments, "--json")])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


def run_camera(arguments: Sequence[Any]) -> None:
    """Run the command without its summary, which would come between that of the grabber."""
    parser = argparse.ArgumentParser()
    camera.add_arguments(parser)
    camera.run(parser.parse_args([str(argument) for argument in arguments]))


def send_when_listening(monkeypatch: pytest.MonkeyPatch, arguments: Sequence[Any]) -> threading.Thread:
    """Return a thread that runs a camera once the grabber listens."""
    listening = threading.Event()

    class Listening(Grabber):
        def record(self, *arguments: Any, **keywords: Any) -> dict[str, Any]:
            listening.set()
            return super().record(*arguments, **keywords)

    monkeypatch.setattr(grab, "Grabber", Listening)

    def send() -> None:
        assert listening.wait(60)
        run_camera(arguments)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_a_file_goes_over_udp_into_a_file(
    raw: Path, port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = send_when_listening(monkeypatch, [raw, "--port", port, "--payload", 8184, "--rate-hz", 10, "--count", 5])
    code, summary, err = call(capsys, "grab", tmp_path / "new" / "grabbed.h5", "--port", port, "--frames", 3, *GRAB)
    sender.join()
    assert code == 0
    assert err.startswith(f"listening at 127.0.0.1:{port}")
    assert summary["frames"] == 3
    with h5py.File(raw) as sent, h5py.File(tmp_path / "new" / "grabbed.h5") as grabbed:
        flags = grabbed["entry/instrument/NDAttributes/FrameFlags"][()]
        for k in np.flatnonzero(flags == 0):
            np.testing.assert_array_equal(grabbed["entry/data/data"][k], sent["entry/data/data"][k % 2])
    assert summary["exact_frames"] == (flags == 0).sum()


def test_a_camera_that_ends_early_is_a_failure_that_keeps_its_frames(
    raw: Path, port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = send_when_listening(monkeypatch, [raw, "--port", port, "--payload", 8184, "--rate-hz", 10])
    quick = [*GRAB[:-1], "0.5"]
    code, summary, err = call(capsys, "grab", tmp_path / "grabbed.h5", "--port", port, "--frames", 10, *quick)
    sender.join()
    assert code == 1
    assert "2 of 10 frames came" in err
    assert summary["frames"] == 2


def test_ctrl_c_ends_a_recording_in_order(
    raw: Path, port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)
    count = []

    class Interrupted(Grabber):
        def record(self, path: Path, num_frames: int | None, each: Any) -> dict[str, Any]:
            def each_and_interrupt(frame: Any) -> None:
                each(frame)
                count.append(frame)
                if len(count) == 2:
                    os.kill(os.getpid(), signal.SIGINT)

            sender.start()
            return super().record(path, num_frames, each_and_interrupt)

    monkeypatch.setattr(grab, "Grabber", Interrupted)
    arguments = [raw, "--port", port, "--payload", 8184, "--rate-hz", 20, "--count", 40]
    sender = threading.Thread(target=run_camera, args=(arguments,))
    code, summary, _ = call(capsys, "grab", tmp_path / "grabbed.h5", "--port", port, *GRAB)
    sender.join()
    assert code == 0
    assert 2 <= summary["frames"] < 40
    assert signal.getsignal(signal.SIGINT) is before
    with h5py.File(tmp_path / "grabbed.h5") as file:
        assert len(file["entry/data/data"]) == summary["frames"]


def test_a_camera_without_end_is_ended_by_ctrl_c(
    raw: Path, port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(VirtualFCCD):
        def send(self, frames: Any) -> Any:
            def interrupt_at_the_third() -> Any:
                for k, frame in enumerate(frames):
                    if k == 2:
                        os.kill(os.getpid(), signal.SIGINT)
                    yield frame

            return super().send(interrupt_at_the_third())

    monkeypatch.setattr(camera, "VirtualFCCD", Interrupted)
    code, summary, _ = call(capsys, "camera", raw, "--port", port, "--rate-hz", 0, "--count", 0)
    assert code == 0
    assert 2 <= summary["frames"] <= 3


def test_simulated_frames_are_sent_with_faults(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    faults = ["--lost", 0.1, "--lost-ends", 0.5, "--lost-frames", 0.2, "--seed", 3]
    code, summary, _ = call(capsys, "camera", "--port", port, "--rate-hz", 0, "--count", 6, *faults)
    assert code == 0
    assert summary["frames"] == 6
    assert summary["lost_packets"] > 585 * summary["lost_frames"] > 0


def test_losses_are_listed_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for lost, text in (([], "none"), (["frame 1: packets 5 to 7", "frame 2: packets 0 to 1"], "7; frame 2")):
        monkeypatch.setattr(camera, "run", lambda options, lost=lost: {"lost": lost})
        assert main(["camera"]) == 0
        assert text in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grab", "frames.h5", "--frames", "0"], "--frames 0: expected at least 1"),
        (["grab", "frames.h5", "--port", "99999"], "port = 99999: expected 0 to 65535"),
        (["grab", "frames.h5", "--payload", "7"], "payload_bytes = 7: expected an even number"),
        (["grab", "frames.h5", "--port", "0", "--timeout-s", "0.05"], "no packet came to 127.0.0.1:"),
        (["grab", ".", "--port", "0"], "is a folder: expected a file to write"),
        (["camera", "nothing.h5"], "nsbluesky camera: nothing.h5: no such file; check its name"),
        (["camera", "."], "nsbluesky camera: . is a folder: expected a file"),
        (["camera", "empty.h5"], "expected a raw CXI file or a camera's HDF5 file"),
        (["camera", "floats.h5"], "entry/data/data is float64 (2, 3, 4): expected raw uint16 frames"),
        (["camera", "odd.h5"], "frames of 30 × 40: the camera sends 1000 × 1152, 1000 × 960, 1040 × 1152"),
        (["camera", "--lost", "2"], "lost = 2.0: expected a probability"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    h5py.File("empty.h5", "w").close()
    for name, frames in (("floats", np.zeros((2, 3, 4))), ("odd", np.zeros((2, 30, 40), np.uint16))):
        with h5py.File(f"{name}.h5", "w") as file:
            file["entry/data/data"] = frames
    code, summary, err = call(capsys, *arguments)
    assert (code, summary) == (1, {})
    assert message in err.splitlines()[-1]
    assert not Path("frames.h5").exists()
