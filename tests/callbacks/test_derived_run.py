"""The documents of a derived run tell what they hold, and in which units."""

from __future__ import annotations

import event_model
import jsonschema
import numpy as np
import pytest

from nsbluesky.callbacks.derived_run import DerivedRun, num_bytes, split_page, units_of
from nsbluesky.settings import PipelineSettings


@pytest.mark.parametrize(
    ("stream", "key", "units"),
    [
        ("frc", "frequency_1_m", "1/m"),
        ("frc", "correlation", ""),
        ("positions", "x_m", "m"),
        ("positions", "rotation_rad", "rad"),
        ("reconstruction", "newest_age_s", "s"),
        ("health", "rate_hz", "Hz"),
        ("detector", "center_row_px", "px"),
        ("dark_statistics", "mean", "ADU"),
        ("primary", "frame", "ADU"),
        ("clean", "frame", "photons"),
    ],
)
def test_units(stream: str, key: str, units: str) -> None:
    assert units_of(stream, key) == ({"units": units} if units else {})


def test_documents_are_what_event_model_expects() -> None:
    run = DerivedRun({"uid": "abc", "sample": "gold", "motors": ["x"]}, PipelineSettings())
    start = run.start_document
    assert (start["raw_uid"], start["sample"], "motors" in start) == ("abc", "gold", False)
    numbers = np.arange(2, dtype=np.int32)
    frames = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    page = run.page("clean", [4, 7], [0.5, 1.5], frame=frames, x_m=numbers * 1e-6, flags=numbers, bad=numbers > 0)
    event = run.event("reconstruction", object=frames[0], passes=3, r_factor=0.5, final=True, engine="wasp", names=[])
    later = run.event("reconstruction", object=frames[1], passes=4)
    documents = [("start", start), *page, *event, *later, run.stop()]
    kinds = [name for name, _ in documents]
    assert kinds == ["start", "descriptor", "event_page", "descriptor", "event", "event", "stop"]
    for name, document in documents:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(document)
    keys = page[0][1]["data_keys"]
    assert [about["dtype"] for about in keys.values()] == ["array", "number", "integer", "boolean"]
    assert keys["frame"]["dtype_numpy"] == "<f4" and keys["frame"]["shape"] == [None, None]
    assert page[1][1]["filled"] == {"frame": [True, True]} and event[1][1]["filled"] == {"object": True}
    kinds = [about["dtype"] for about in event[0][1]["data_keys"].values()]
    assert kinds == ["array", "integer", "number", "boolean", "string", "array"]
    assert num_bytes(event[1][1]) == 36 and num_bytes(page[1][1]) == 72 + 16 + 8 + 2
    for document, stream in ((page[1][1], "clean"), (event[1][1], "reconstruction"), ({"descriptor": "foreign"}, "")):
        assert run.stream_of(document) == stream
    assert all(run.owns(document) for document in (start, page[0][1], documents[-1][1]))
    assert not run.owns({"uid": "foreign"}) and not run.owns({"uid": "stop", "run_start": "foreign"})
    for row, part in enumerate(split_page(page[1][1])):
        assert part["seq_num"] == [[4], [7]][row] and part["time"] == [row + 0.5] and len(part["uid"]) == 1
        np.testing.assert_array_equal(part["data"]["frame"], frames[row : row + 1])
        event_model.schema_validators[event_model.DocumentNames.event_page].validate(part)
    with pytest.raises(TypeError, match="other: a value of type set: expected an array or a plain number or text"):
        run.event("other", what=set())


def test_a_stream_that_the_schema_refuses_is_refused_in_each_run() -> None:
    """What fits is known from the first run on; what does not is looked at again, whatever fitted in its stream."""
    for _ in range(2):
        run = DerivedRun({"uid": "abc"}, PipelineSettings())
        assert len(run.event("a stage's", mean=1.0)) == 2
        with pytest.raises(jsonschema.ValidationError, match=r"'mean\.x' does not match"):
            DerivedRun({"uid": "abc"}, PipelineSettings()).event("a stage's", **{"mean.x": 1.0})
