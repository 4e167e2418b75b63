"""What runs need is compiled before there is one, and nothing of that is seen."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap

import pytest

from nsbluesky.backend import get_backend
from nsbluesky.callbacks.incremental_reconstructor import IncrementalReconstructor
from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.callbacks.warm_up import invented_run, warm_up
from nsbluesky.settings import PipelineSettings

SMALL = ["cleaning.layout=none", "cleaning.crop_px=32", "cleaning.frame_px=32", "backend=numpy"]


@pytest.mark.nightly
def test_nothing_is_compiled_in_the_first_run_after_it():
    """In a process of its own, where nothing has been loaded; the loops are those of this installation."""
    code = """
        import gc
        from numba.core.dispatcher import Dispatcher

        from nsbluesky.callbacks.pipeline import PtychoPipeline
        from nsbluesky.callbacks.warm_up import invented_run
        from nsbluesky.settings import PipelineSettings

        def signatures():
            loops = [o for o in gc.get_objects() if isinstance(o, Dispatcher)]
            own = [o for o in loops if o.py_func.__module__.startswith("nsbluesky")]
            return {(f.py_func.__module__, f.py_func.__name__, str(s)) for f in own for s in f.signatures}

        small = {"cleaning__crop_px": 256, "cleaning__frame_px": 32, "backend": "numpy", "solver__final_s": 0.5}
        settings = PipelineSettings().replace(**small)
        pipeline = PtychoPipeline(settings)
        before = signatures()
        assert pipeline.warm_up().wait(120)
        ready = signatures()
        for name, document in invented_run(settings):
            pipeline(name, document)
        assert pipeline.close(60) and len(pipeline.results) == 1
        (result,) = pipeline.results.values()
        assert result["final"] and result["num_frames"] == 25, result
        print(len(ready - before), sorted(signatures() - ready))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stderr
    count, _, late = done.stdout.partition(" ")
    assert int(count) > 10
    assert late.strip() == "[]", "compiled only when frames came"


@pytest.mark.parametrize("layout", ["none", "cosmic"])
def test_an_invented_run_is_what_the_settings_expect(layout, caplog):
    more = [f"cleaning.layout={layout}", "cleaning.crop_px=64", "cleaning.frame_px=16", "backend=numpy"]
    settings = PipelineSettings().set_from_text(more)
    with caplog.at_level(logging.INFO, logger="nsbluesky.callbacks.warm_up"):
        for _ in warm_up(IncrementalReconstructor.stages, settings, get_backend("numpy")):
            pass
    (record,) = caplog.records
    assert record.getMessage().startswith("the processing is ready")
    assert len(list(invented_run(settings))) == 1 + 2 + 3 + 25 + 1


def test_settings_that_fit_no_frame_are_left_to_the_first_run(caplog):
    settings = PipelineSettings().set_from_text([*SMALL, "cleaning.flat_field=/nowhere/flat.npy"])
    pipeline = PtychoPipeline(settings)
    with caplog.at_level(logging.INFO, logger="nsbluesky.callbacks.warm_up"):
        assert pipeline.warm_up().wait(30)
    assert "not all of the processing could be made ready" in caplog.text
    assert pipeline.close(30)


def test_nobody_sees_it(tmp_path):
    pipeline = PtychoPipeline(PipelineSettings().set_from_text(SMALL), directory=tmp_path)
    seen = []
    pipeline.subscribe(lambda name, document: seen.append(name))
    ready = pipeline.warm_up()
    assert pipeline.wait(0), "nothing is waited for"
    assert ready.wait(60)
    assert seen == [] and pipeline.results == {} and list(tmp_path.iterdir()) == []
    assert pipeline.live.snapshot().run is None and pipeline.activity() == []
    assert pipeline.close(30)
