"""Puts load on contestants and measures them, in a closed loop or an open one.

Every measurement has servers of its own that start empty. Contestants take turns within a round, so
that whatever else the machine does meets all of them alike.
"""

import json
import os
import subprocess
import sys

from contestants import ROOT

WARM_UP_SECONDS = 1


def generate(servers, options, *flags, keys=None):
    """Runs the load generator against servers to its end."""
    binary = os.environ.get("CORACLE_LOADGEN", os.path.join(ROOT, "target/release/coracle-loadgen"))
    command = [binary, "--addr", ",".join(servers.addresses), "--protocol", servers.protocol,
               "--connections", str(options.connections), "--keys", str(keys or options.keys),
               "--value-size", str(options.value_bytes), "--quiet", *servers.generator_flags,
               *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=options.seconds + 600)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stdout}\n{done.stderr}")


def measure(start, options, *flags):
    """Figures of one contestant under one load. Times are in microseconds."""
    with start() as servers:
        fill(servers, options)
        return measure_filled(servers, options, *flags)


def fill(servers, options, *flags):
    """Writes every key once."""
    generate(servers, options, "--prefill", "--requests", "1000", *flags)


def measure_filled(servers, options, *flags):
    """Figures of servers that run and hold all keys."""
    report_file = os.path.join(servers.directory, "report.json")
    before = servers.cpu_seconds()
    generate(servers, options, *flags, "--duration", f"{options.seconds}s",
             "--warmup", f"{WARM_UP_SECONDS}s", "--json", report_file)
    cpu = [after - before for before, after in zip(before, servers.cpu_seconds())]
    servers.check_running()
    with open(report_file) as file:
        return figures(json.load(file), cpu)


def figures(report, cpu):
    # The servers worked for the warm-up and the drain, too.
    operations, end = 0, 0
    for second in report["seconds"]:
        operations += second["rate"] * (second["end_s"] - end)
        end = second["end_s"]
    operations = max(1, operations)
    latencies, errors = report["all"], report["errors"]
    return {
        "throughput": report["throughput"],
        "p50_us": latencies["p50_ns"] / 1000,
        "p99_us": latencies["p99_ns"] / 1000,
        "p999_us": latencies["p999_ns"] / 1000,
        "errors": sum(errors[kind] for kind in ("not_done", "unknown", "protocol")),
        "server_cpu_us": sum(cpu) * 1e6 / operations,
        "busiest_server_cpu_us": max(cpu) * 1e6 / operations,
        "loadgen_cpu_us": report["generator"]["cpu_ns_per_operation"] / 1000,
        "late_share": report["generator"]["late_share"],
    }


def alternate(label, names, starts, options, *flags):
    """The figures of each contestant, one per round."""
    results = {name: [] for name in names}
    for round_number in range(1, options.rounds + 1):
        for name in names:
            result = measure(starts[name], options, *flags)
            results[name].append(result)
            tell(f"{label} round {round_number} {name}", result)
    return results


def tell(label, result):
    print(f"{label}: {result['throughput']:,.0f}/s p99 {result['p99_us']:.0f} us, servers "
          f"{result['server_cpu_us']:.2f} us/op, loadgen {result['loadgen_cpu_us']:.2f} us/op, "
          f"errors {result['errors']}", file=sys.stderr, flush=True)


def closed_loop(operation, reads, names, pipeline, starts, options):
    """The figures of an operation at a pipeline depth, by contestant."""
    return alternate(f"pipeline {pipeline} {operation}", names, starts, options,
                     "--reads", str(reads), "--pipeline", str(pipeline))


def open_loop(reads, names, starts, options):
    """The figures of contestants at half of the peak of the slowest of them, by contestant, with
    the peaks and the rate in operations per second."""
    peaks = {}
    for name in names:
        result = measure(starts[name], options, "--reads", str(reads), "--pipeline", "1")
        tell(f"open: peak of {name}", result)
        peaks[name] = result["throughput"]
    rate = max(1, int(min(peaks.values()) / 2))
    results = alternate(f"open: {rate:,}/s", names, starts, options, "--reads", str(reads),
                        "--rate", str(rate), "--arrivals", "poisson")
    return results, peaks, rate
