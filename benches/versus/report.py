"""Medians, spreads and ratios over the rounds, and the tables that show them.

Ratios are to the contestant that is named first for an operation. A ratio of throughput above one
and a ratio of processor time or latency below one are the better ones.
"""

import statistics

SUMMARIZED = ["throughput", "p50_us", "p99_us", "p999_us", "server_cpu_us",
              "busiest_server_cpu_us", "loadgen_cpu_us", "late_share"]


def spread(values):
    """Median, lowest and highest."""
    return statistics.median(values), min(values), max(values)


def summarize(operation, results, **more):
    """A row for each contestant of an operation."""
    rows = []
    for contestant, rounds in results.items():
        row = {"operation": operation, **more, "contestant": contestant}
        for name in SUMMARIZED:
            row[name], row[f"{name}_low"], row[f"{name}_high"] = spread(
                [result[name] for result in rounds])
        row["errors"] = sum(result["errors"] for result in rounds)
        row["rounds"] = rounds
        rows.append(row)
    for row in rows:
        row["ratio"] = ratio(row, rows[0], "throughput")
        for name in ("server_cpu", "busiest_server_cpu", "p50", "p99", "p999"):
            row[f"{name}_ratio"] = ratio(row, rows[0], f"{name}_us")
        # What does nothing with a request but answer it, where it took part.
        for least in (other for other in rows if other["contestant"] == "echo"):
            row["server_cpu_over_echo"] = ratio(row, least, "server_cpu_us")
    return rows


def ratio(row, base, name):
    """None where the base is nothing: a short run may have used less than a tick of the clock."""
    return row[name] / base[name] if base[name] else None


def decimal(value, unit=1):
    return "–" if value is None else f"{value / unit:.2f}"


def table(columns, rows):
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(cells) + " |" for cells in rows])


def operations_table(rows):
    columns = ["operation", "pipeline", "contestant", "ops/s (median)", "spread", "ratio", "p99 ms",
               "server CPU µs/op", "CPU ratio", "CPU over echo", "busiest server CPU µs/op",
               "loadgen CPU µs/op", "errors"]
    return table(columns, [[
        row["operation"], str(row["pipeline"]), row["contestant"], f"{row['throughput']:,.0f}",
        f"{row['throughput_low']:,.0f} – {row['throughput_high']:,.0f}", decimal(row["ratio"]),
        decimal(row["p99_us"], 1000), decimal(row["server_cpu_us"]),
        decimal(row["server_cpu_ratio"]), decimal(row.get("server_cpu_over_echo")),
        decimal(row["busiest_server_cpu_us"]),
        decimal(row["loadgen_cpu_us"]), str(row["errors"])] for row in rows])


def open_loop_table(rows):
    columns = ["open loop, ops/s", "contestant", "peak ops/s", "answered ops/s", "p50 ms", "ratio",
               "p99 ms", "ratio", "p99.9 ms", "ratio", "server CPU µs/op", "CPU ratio",
               "sent late %", "errors"]
    return table(columns, [[
        f"{row['rate']:,}", row["contestant"], f"{row['peak']:,.0f}", f"{row['throughput']:,.0f}",
        *(cell for name in ("p50", "p99", "p999")
          for cell in (decimal(row[f"{name}_us"], 1000), decimal(row[f"{name}_ratio"]))),
        decimal(row["server_cpu_us"]), decimal(row["server_cpu_ratio"]),
        decimal(row["late_share"], 0.01), str(row["errors"])] for row in rows])


def restarts_table(rows):
    columns = ["restart with keys", "contestant", "seconds (median)", "spread", "ratio", "files MB"]
    return table(columns, [[
        f"{row['keys']:,}", row["contestant"], decimal(row["seconds"]),
        f"{decimal(row['seconds_low'])} – {decimal(row['seconds_high'])}", decimal(row["ratio"]),
        f"{row['files_bytes'] / 1e6:,.0f}"] for row in rows])
