//! Logs in klog's text form: `I1120 15:04:05.123456    4242 files.rs:52] "Message" key="value"`.
//!
//! Times are UTC. Metrics and traces are not here yet.

use std::fmt;

use longshore_core::model::Time;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use crate::clock;

/// Environment variable with filter directives (`longshore=debug,longshore::dataplane=trace`); wins
/// over `--v`.
pub const ENV: &str = "LONGSHORE_LOG";

/// Starts logging to stderr. `v` is klog's: 0 warnings, 1–3 state changes, 4 debug, 5 trace.
///
/// # Errors
/// The directives of [`ENV`] cannot be read.
pub fn init(v: u8) -> Result<(), String> {
    let directives = match std::env::var(ENV) {
        Ok(text) if !text.is_empty() => text,
        _ => directives(v).to_owned(),
    };
    let filter = EnvFilter::try_new(&directives)
        .map_err(|error| format!("{ENV}={directives:?}: {error} (example: longshore=debug)"))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .event_format(Klog { pid: std::process::id() })
        .finish();
    // A second call (tests) keeps the first subscriber.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// The API client's library logs every call that fails; the world says it once, with what to do.
fn directives(v: u8) -> &'static str {
    match v {
        0 => "warn,kube_client=off,kube_runtime=off",
        1..=3 => "warn,kube_client=off,kube_runtime=off,longshore=info",
        4 => "info,longshore=debug",
        _ => "info,longshore=trace",
    }
}

struct Klog {
    pid: u32,
}

impl<S, N> FormatEvent<S, N> for Klog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let place = (metadata.file().unwrap_or("-"), metadata.line().unwrap_or(0));
        let mut fields = Fields::default();
        event.record(&mut fields);
        out.write_str(&line(*metadata.level(), clock::now(), self.pid, place, &fields))
    }
}

/// Message and fields of an event.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value, true);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        // `%value` and formatted messages arrive here without quotes of their own.
        let quote = !text.starts_with('"')
            && text.parse::<f64>().is_err()
            && !matches!(text.as_str(), "true" | "false");
        self.put(field.name(), &text, quote);
    }
}

impl Fields {
    fn put(&mut self, name: &str, value: &str, quote: bool) {
        if name == "message" {
            value.clone_into(&mut self.message);
        } else if quote {
            self.rest.push_str(&format!(" {name}={value:?}"));
        } else {
            self.rest.push_str(&format!(" {name}={value}"));
        }
    }
}

/// One line. The message is quoted: a line is a line whatever is in it.
fn line(level: Level, at: Time, pid: u32, (file, number): (&str, u32), fields: &Fields) -> String {
    let letter = match level {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        _ => 'I',
    };
    let stamp = jiff::Timestamp::from_millisecond(at.unix_ms()).unwrap_or_default();
    let time = stamp.strftime("%m%d %H:%M:%S%.6f");
    let file = file.rsplit('/').next().unwrap_or(file);
    format!("{letter}{time} {pid:>7} {file}:{number}] {:?}{}\n", fields.message, fields.rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_have_klogs_form() {
        let mut fields = Fields::default();
        fields.put("message", "Set aside\nx", true);
        fields.put("pod", "demo/web", true);
        fields.put("count", "3", false);
        let at = Time::from_unix_ms(1_700_000_000_123);
        assert_eq!(
            line(Level::WARN, at, 42, ("agent/src/world/files.rs", 52), &fields),
            "W1114 22:13:20.123000      42 files.rs:52] \"Set aside\\nx\" pod=\"demo/web\" count=3\n"
        );
    }

    #[test]
    fn log_levels_follow_v() {
        for v in 0..=9 {
            assert!(EnvFilter::try_new(directives(v)).is_ok());
        }
    }
}
