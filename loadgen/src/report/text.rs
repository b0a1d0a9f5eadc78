//! The report as text for people.

use std::fmt::Write;

use super::{Latency, Report};

/// Nanoseconds as milliseconds with three decimals.
fn ms(nanoseconds: u64) -> String {
    format!("{:.3}", nanoseconds as f64 / 1e6)
}

impl Report {
    /// The report as a table for people.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.render_to(&mut text);
        text
    }

    fn render_to(&self, out: &mut String) -> std::fmt::Result {
        let setting = &self.setting;
        write!(out, "\n{} over {}", setting.protocol, setting.addresses.join(", "))?;
        match (setting.rate, &setting.shape) {
            (Some(rate), _) => write!(out, ", open loop at {rate:.0} op/s")?,
            (None, Some(shape)) => write!(out, ", open loop, {shape}")?,
            (None, None) => write!(out, ", {} loop", setting.pacing)?,
        }
        if let Some(speed) = self.trace.as_ref().and_then(|trace| trace.speed) {
            write!(out, " in the trace's time × {speed}")?;
        }
        writeln!(
            out,
            ", {} connections, pipeline {}, {} thread(s)\n{} keys ({}), values of {} bytes, \
             {:.0} % reads{}, {:.1} s measured\n",
            setting.connections,
            setting.pipeline,
            setting.threads,
            setting.keys,
            setting.distribution,
            setting.value_size,
            setting.read_share * 100.0,
            if setting.writes == "update" {
                String::new()
            } else {
                format!(" and {}s", setting.writes)
            },
            self.measured_s,
        )?;
        writeln!(out, "throughput {:>14.0} op/s\n", self.throughput)?;
        writeln!(
            out,
            "{:<8}{:>12}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "ms", "count", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"
        )?;
        for (name, latency) in
            [("all", &self.all), ("reads", &self.reads), ("writes", &self.writes)]
        {
            if latency.count > 0 || name == "all" {
                latency_row(out, name, latency)?;
            }
        }
        self.render_stages(out)?;
        self.render_events(out)?;
        self.render_rest(out)
    }

    fn render_rest(&self, out: &mut String) -> std::fmt::Result {
        let errors = &self.errors;
        writeln!(
            out,
            "\nerrors     not done {} (never sent {}), unknown {}, protocol {}",
            errors.not_done, errors.unsent, errors.unknown, errors.protocol
        )?;
        for (code, count) in &errors.codes {
            writeln!(out, "           {code} {count}")?;
        }
        writeln!(
            out,
            "links      {} open, {} lost ({} silent too long), {} attempts failed",
            self.generator.connections,
            errors.connections_lost,
            errors.timeouts,
            errors.connects_failed
        )?;
        if self.redirects + self.maps > 0 {
            writeln!(out, "cluster    {} redirects, {} maps fetched", self.redirects, self.maps)?;
        }
        if let Some(hit_ratio) = self.hit_ratio {
            write!(out, "hits       {:.2} % of reads", hit_ratio * 100.0)?;
            match &self.trace {
                Some(trace) => writeln!(out, ": {} hits, {} misses", trace.hits, trace.misses)?,
                None => writeln!(out)?,
            }
        }
        if let Some(trace) = &self.trace {
            writeln!(
                out,
                "trace      {}: {} requests of {} keys; measured {} reads, {} writes, {} removals, \
                 {} writes after a miss",
                trace.name,
                trace.requests,
                trace.keys,
                trace.hits + trace.misses,
                trace.writes,
                trace.deletes,
                trace.fills
            )?;
        }
        writeln!(
            out,
            "bytes      {:.1} MB sent, {:.1} MB received",
            self.bytes_sent as f64 / 1e6,
            self.bytes_received as f64 / 1e6
        )?;
        writeln!(
            out,
            "generator  {:.2} µs CPU per operation ({:.2} in the kernel), busiest thread {:.0} % \
             of a core, without one {:.0} % of its time, {} sends late ({:.2} %)",
            self.generator.cpu_ns_per_operation / 1e3,
            self.generator.system_ns_per_operation / 1e3,
            self.generator.busiest_thread * 100.0,
            self.generator.waiting_thread * 100.0,
            self.generator.late_sends,
            self.generator.late_share * 100.0
        )?;
        for warning in &self.warnings {
            writeln!(out, "warning    {warning}")?;
        }
        Ok(())
    }

    fn render_stages(&self, out: &mut String) -> std::fmt::Result {
        if self.stages.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "\n{:<16}{:>11}{:>11}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "stage", "offered/s", "op/s", "p50", "p99", "p99.9", "max", "errors"
        )?;
        for stage in &self.stages {
            writeln!(
                out,
                "{:<16}{:>11.0}{:>11.0}{:>10}{:>10}{:>10}{:>10}{:>10}",
                format!("{:.1} - {:.1} s", stage.start_s, stage.end_s),
                stage.offered,
                stage.rate,
                ms(stage.latency.p50_ns),
                ms(stage.latency.p99_ns),
                ms(stage.latency.p999_ns),
                ms(stage.latency.max_ns),
                stage.failed,
            )?;
        }
        Ok(())
    }

    fn render_events(&self, out: &mut String) -> std::fmt::Result {
        for event in &self.events {
            writeln!(out, "\nevent      {:.3} s: {} ({})", event.at_s, event.what, event.outcome)?;
        }
        if self.shards.is_empty() {
            return Ok(());
        }
        let down = self.shards.iter().filter(|shard| !shard.unavailable.is_empty());
        writeln!(
            out,
            "\nshards     {} of {} were unavailable for 100 ms or more",
            down.clone().count(),
            self.shards.len()
        )?;
        for shard in down {
            let (first, last) = shard.slots;
            for window in &shard.unavailable {
                let end = if window.recovered { "" } else { ", and to the end" };
                writeln!(
                    out,
                    "           slots {first}-{last}: {:.3} s, from {:.3} to {:.3} s{end}",
                    window.end_s - window.start_s,
                    window.start_s,
                    window.end_s
                )?;
            }
        }
        Ok(())
    }

    /// Latency and throughput over time as a table for people.
    pub fn render_over_time(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.render_rows(&mut text);
        text
    }

    fn render_rows(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "\n{:<16}{:>11}{:>11}{:>10}{:>10}{:>10}{:>10}{:>10}  phase",
            "time", "offered/s", "op/s", "p50", "p99", "p99.9", "max", "errors"
        )?;
        for row in &self.seconds {
            writeln!(
                out,
                "{:<16}{:>11}{:>11.0}{:>10}{:>10}{:>10}{:>10}{:>10}  {}",
                format!("{:.2} - {:.2} s", row.start_s, row.end_s),
                row.offered.map_or("-".into(), |offered| format!("{offered:.0}")),
                row.rate,
                ms(row.p50_ns),
                ms(row.p99_ns),
                ms(row.p999_ns),
                ms(row.max_ns),
                row.failed,
                row.phase,
            )?;
        }
        Ok(())
    }
}

fn latency_row(out: &mut String, name: &str, latency: &Latency) -> std::fmt::Result {
    writeln!(
        out,
        "{name:<8}{:>12}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
        latency.count,
        ms(latency.mean_ns as u64),
        ms(latency.p50_ns),
        ms(latency.p90_ns),
        ms(latency.p99_ns),
        ms(latency.p999_ns),
        ms(latency.p9999_ns),
        ms(latency.max_ns),
    )
}
