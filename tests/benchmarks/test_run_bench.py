"""The keys of all steps with one reader beside a reader for each step, and two steps at a time beside one after the other, each in one run."""
import nbformat
import pytest

from timing import least, report

from routercompanion.core import project_root
from routercompanion.reproduce import graph, notebooks
from routercompanion.reproduce.run import run_pipeline


def all_keys(readers):
    root = project_root()
    return {s.name: graph.step_key(s, root, profile="embedded", reader=next(readers)) for s in graph.project_steps(root)}


def one_reader():
    reader = graph.KeyReader()
    while True: yield reader


def many_readers():
    while True: yield graph.KeyReader()


def test_keys_of_all_steps(benchmark):
    "A new process parses everything once; after that a run's keys cost the reading of each file, not of each file for each step."
    for cache in (graph._imported, notebooks._code_sources): cache.cache_clear()
    first = least(lambda: all_keys(one_reader()))
    again, apart = least(lambda: all_keys(one_reader()), 3), least(lambda: all_keys(many_readers()))
    benchmark.pedantic(lambda: all_keys(one_reader()), rounds=1)
    assert all_keys(one_reader()) == all_keys(many_readers())
    report(benchmark, steps=len(graph.project_steps()), seconds_first=first[0], seconds_again=again[0], seconds_a_reader_each=apart[0], ratio=apart[0] / again[0])
    assert again[0] <= 3 and apart[0] > 2 * again[0]


@pytest.fixture
def two_steps(tmp_path):
    "Two steps that each wait for five seconds, as a step does that keeps one of two cores busy."
    for name in "ab":
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import time\ntime.sleep(5)")])
        (tmp_path / "nbs").mkdir(exist_ok=True)
        nbformat.write(nb, tmp_path / f"nbs/{name}.ipynb")
    return tmp_path, [graph.Step(name, f"nbs/{name}.ipynb") for name in "ab"]


def test_two_steps_at_a_time(benchmark, two_steps):
    root, steps = two_steps
    run = lambda jobs: run_pipeline(steps, root, profile="smoke", quiet=True, again=True, jobs=jobs)
    one, two = (least(lambda: run(jobs))[1] for jobs in (1, 2))
    benchmark.pedantic(lambda: run(2), rounds=1)
    report(benchmark, seconds_one_after_the_other=one, seconds_two_at_a_time=two, ratio=one / two)
    assert two < .8 * one
