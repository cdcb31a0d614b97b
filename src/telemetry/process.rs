//! The `process_*` metrics that Prometheus knows of every process, read from /proc at each scrape.

use std::fmt;

use procfs::process::{LimitValue, Process as Proc};
use procfs::{ProcResult, WithCurrentSystemInfo, boot_time_secs, ticks_per_second};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Reads /proc/self. Where that cannot be read, there are no such metrics.
#[derive(Debug)]
pub(super) struct Process;

struct Figures {
    cpu_seconds: f64,
    start_time_seconds: f64,
    resident_bytes: u64,
    open_fds: u64,
    /// None: there is no limit.
    max_fds: Option<u64>,
}

impl Figures {
    #[expect(clippy::cast_precision_loss, reason = "a tick is a hundredth of a second, and a double exact for ages")]
    fn read() -> ProcResult<Self> {
        let process = Proc::myself()?;
        let stat = process.stat()?;
        let seconds = |ticks: u64| ticks as f64 / ticks_per_second() as f64;
        let max_fds = match process.limits()?.max_open_files.soft_limit {
            LimitValue::Value(limit) => Some(limit),
            LimitValue::Unlimited => None,
        };
        Ok(Self {
            cpu_seconds: seconds(stat.utime + stat.stime),
            start_time_seconds: boot_time_secs()? as f64 + seconds(stat.starttime),
            resident_bytes: stat.rss_bytes().get(),
            open_fds: process.fd_count()? as u64,
            max_fds,
        })
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Ok(figures) = Figures::read() else { return Ok(()) };
        let mut metric = |name: &str, help: &str, unit: Option<&Unit>, value: &dyn EncodeMetric| {
            value.encode(encoder.encode_descriptor(name, help, unit, value.metric_type())?)
        };
        let cpu = ConstCounter::new(figures.cpu_seconds);
        metric("process_cpu", "CPU time of this process, in user and system mode", Some(&Unit::Seconds), &cpu)?;
        let start = ConstGauge::new(figures.start_time_seconds);
        metric("process_start_time", "When this process was started, since the epoch", Some(&Unit::Seconds), &start)?;
        let resident = ConstGauge::new(figures.resident_bytes);
        metric("process_resident_memory", "Memory of this process that is in RAM", Some(&Unit::Bytes), &resident)?;
        let open = ConstGauge::new(figures.open_fds);
        metric("process_open_fds", "File descriptors that this process has open", None, &open)?;
        match figures.max_fds {
            Some(limit) => {
                metric("process_max_fds", "File descriptors that it may have open", None, &ConstGauge::new(limit))
            }
            None => Ok(()),
        }
    }
}
