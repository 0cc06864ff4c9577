"""experiments/benchmarks/streaming.py: the data set, the limit on memory, and a run with --quick."""

import numpy as np
import pytest
from scripts import load


@pytest.mark.thorough
def test_quick_run(data_dir, tmp_path):
    script = load("benchmarks/streaming")
    dots = np.zeros((2, 9, 9, 1), np.uint8)
    dots[:, 4, 4] = [[1], [2]]
    images = list(script.moved(dots, 300, seed=0))
    places = {tuple(np.argwhere(image)[0][:2] - 4) for image in images}
    assert places == {(down, right) for down in range(-3, 4) for right in range(-3, 4)}
    assert [image.sum() for image in images] == [1, 2] * 150

    argv = ["--quick", "--folder", tmp_path, "--data-dir", data_dir, "--rows", "memory", "streamed"]
    result = script.main(list(map(str, argv)))
    created = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.array_record*")}
    script.make(tmp_path, "digits", 2000, 100, data_dir=data_dir)  # it exists
    assert created == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.array_record*")} != {}
    memory, streamed = result["rows"]
    assert (memory["row"], streamed["row"], result["bytes"]) == ("memory", "streamed", 2000 * 64)
    assert memory["speed"]["median"] == 1
    assert streamed["speed"]["median"] == pytest.approx(streamed["steps_per_second"] / memory["steps_per_second"])


def test_a_training_under_a_limit_on_memory_reports_its_error(data_dir, tmp_path):
    train_with_limit = load("benchmarks/streaming").train_with_limit
    argv = ["--data.data-dir", data_dir, "--train.batch-size", "9999999", "--compilation-cache", "None"]
    outcome = train_with_limit(2**34, argv)
    assert (outcome["code"], outcome["result"]) == (2, None)
    assert "train.batch_size=9999999" in outcome["message"]
    assert train_with_limit(2**25, argv)["code"] not in (0, 2)  # too little to import the package
