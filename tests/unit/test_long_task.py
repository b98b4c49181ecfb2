"""An hour's task beside many short ones: it holds neither them nor memory."""

from benchmarks.long_task import run


def test_a_task_that_runs_on_and_on_lets_the_others_be_done_and_forgotten() -> None:
    run(400, long=True)  # what is made once, at the first of anything, is no growth
    seen = run(4000, long=True)
    # 4,000 tasks that were kept would be over a MiB.
    assert seen.kib < 300
    assert seen.checkpoint_bytes < 100
