"""The results of an evaluation on disk: their lock, and results of an earlier step."""

import pytest

from vae_jax.errors import LockedError
from vae_jax.runs import RunDirectory
from vae_jax.runs.evaluation.written_results import lock_results, write_evaluation
from vae_jax.runtime import lock


def test_an_evaluation_replaces_the_report_of_an_earlier_one(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.report.write_text("of step 20")
    write_evaluation(directory, {"step": 40})
    assert not directory.report.exists()
    assert directory.evaluation.exists()


@pytest.mark.fault
def test_results_are_locked_and_refused_if_a_later_step_is_saved(tmp_path):
    directory = RunDirectory(tmp_path)
    with lock_results(directory, 20) as refusal:
        assert refusal is None
        with pytest.raises(LockedError), lock.run_lock(tmp_path):
            pass
    for step in (20, 40):
        (directory.checkpoints / str(step)).mkdir(parents=True)
    with lock_results(directory, 20) as refusal:
        assert refusal == f"another process has saved step 40 in {tmp_path}, so no results of step 20 are written"
    with lock_results(directory, 40) as refusal:
        assert refusal is None
