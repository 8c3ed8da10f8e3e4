"""What the benchmarks share: the best of several timings, and figures that are printed and kept with the benchmark."""
import time


def best_of(function, times):
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def least(function, times=1):
    "Smallest (processor seconds of all threads, wall seconds) of several calls. The first does not depend on what else the machine is doing."
    seconds = []
    for _ in range(times):
        start = time.process_time(), time.perf_counter()
        function()
        seconds.append((time.process_time() - start[0], time.perf_counter() - start[1]))
    return min(seconds)


def report(benchmark, **figures):
    benchmark.extra_info.update(figures)
    print("\n" + ", ".join(f"{k} = {v:.4g}" for k, v in figures.items()))
