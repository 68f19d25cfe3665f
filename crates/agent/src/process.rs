//! What `/metrics` tells of the process itself, under the names that Prometheus' clients for Go and other languages use.

use std::{fmt, fs};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// Reads `/proc/self` whenever it is asked.
#[derive(Debug)]
pub struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(stat) = Stat::read() else { return Ok(()) };
        let mut tell = |name: &str, help: &str, value: Value| {
            let metric = encoder.encode_descriptor(name, help, None, value.metric_type())?;
            value.encode(metric)
        };
        let cpu = Value::Counter(stat.cpu_seconds);
        tell("process_cpu_seconds", "Total user and system CPU time spent in seconds", cpu)?;
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            tell("process_open_fds", "Number of open file descriptors", Value::Gauge(open.count() as f64))?;
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        if let Some(limit) = limit {
            tell("process_max_fds", "Maximum number of open file descriptors", Value::Gauge(limit as f64))?;
        }
        tell(
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes",
            Value::Gauge(stat.virtual_bytes),
        )?;
        tell(
            "process_resident_memory_bytes",
            "Resident memory size in bytes",
            Value::Gauge(stat.resident_bytes),
        )?;
        if let Some(boot) = boot_time() {
            let start = Value::Gauge(boot + stat.started_after_boot);
            tell(
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds",
                start,
            )?;
        }
        Ok(())
    }
}

enum Value {
    Counter(f64),
    Gauge(f64),
}

impl EncodeMetric for Value {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Counter(value) => ConstCounter::new(*value).encode(encoder),
            Self::Gauge(value) => ConstGauge::new(*value).encode(encoder),
        }
    }

    fn metric_type(&self) -> MetricType {
        match self {
            Self::Counter(_) => MetricType::Counter,
            Self::Gauge(_) => MetricType::Gauge,
        }
    }
}

/// What `/proc/self/stat` and `/proc/self/status` say (proc(5)).
struct Stat {
    cpu_seconds: f64,
    /// Seconds.
    started_after_boot: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        /// The unit of times, the same on all architectures (`USER_HZ`).
        const TICKS_PER_SECOND: f64 = 100.0;
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The name of the program, in parentheses, may hold anything: fields are counted from its end.
        let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
        // Field 3 of the page is the first behind the name.
        let seconds = |number: usize| Some(fields.get(number - 3)?.parse::<f64>().ok()? / TICKS_PER_SECOND);
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
        };
        Some(Self {
            cpu_seconds: seconds(14)? + seconds(15)?,
            started_after_boot: seconds(22)?,
            virtual_bytes: bytes("VmSize")?,
            resident_bytes: bytes("VmRSS")?,
        })
    }
}

/// Unix seconds.
fn boot_time() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()
}
