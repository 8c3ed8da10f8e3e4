"""How long the program takes to say hello, and a bandit to be imported, in processor seconds of fresh processes.

The help is measured against `import typer, rich`, which it cannot do without; the bandit against a bare interpreter.
"""
import os
import subprocess
import sys

import pytest
from timing import report

HELP = "from routercompanion.reproduce.cli import main; main(['--help'])"


def processor_seconds(code, times=3):
    "Least processor seconds (user and system) of a fresh interpreter that runs `code`."
    seconds = []
    for _ in range(times):
        before = os.times()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return min(seconds)


def test_help_costs_little_more_than_typer_and_rich(benchmark):
    floor, shown = processor_seconds("import typer, rich"), benchmark.pedantic(processor_seconds, args=(HELP,), rounds=1)
    report(benchmark, help_s=shown, typer_and_rich_s=floor, difference_s=shown - floor)
    assert shown - floor <= .2


@pytest.mark.parametrize("module", ["routercompanion.routers.bandits.thompson"])
def test_importing_a_bandit_is_quick(benchmark, module):
    floor, loaded = processor_seconds("pass"), benchmark.pedantic(processor_seconds, args=(f"import {module}",), rounds=1)
    estimator = processor_seconds("import sklearn.base")
    report(benchmark, import_s=loaded, python_s=floor, sklearn_base_s=estimator, ratio_to_sklearn_base=loaded / estimator)
    assert loaded <= 1.5
