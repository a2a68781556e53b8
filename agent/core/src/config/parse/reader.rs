//! Takes fields out of a mapping by their type; what is left over nobody reads.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::Value;

use crate::model::{Kind, ObjectKey, Problem, Severity};

/// Fields whose value must not be ignored: what follows from ignoring it, and the values that
/// mean what Longshore does anyway.
const ISOLATION: [(&str, &str, &[&str]); 9] = [
    ("protectKernelDefaults", "kernel settings would not be checked", &["false"]),
    ("memorySwap", "swap limits would not be set", &["{}"]),
    ("userNamespaces", "ID ranges of pods would differ", &["{}"]),
    ("reservedSystemCPUs", "pods would run on reserved CPUs", &["\"\""]),
    ("cpuManagerPolicy", "containers would not get their own CPUs", &["\"none\"", "\"\""]),
    ("memoryManagerPolicy", "memory would not be pinned", &["\"None\"", "\"\""]),
    (
        "enableDebuggingHandlers",
        "logs, exec, attach and port-forward would still be served",
        &["true"],
    ),
    // Never is what Longshore does; the kubelet's default is made explicit by tools that print it.
    (
        "imagePullCredentialsVerificationPolicy",
        "pods could use images that were pulled with the credentials of others",
        &["\"\"", "\"NeverVerify\"", "\"NeverVerifyPreloadedImages\""],
    ),
    ("topologyManagerPolicy", "resources would not be aligned", &["\"none\"", "\"\""]),
];

/// Fields that are not read and whose zero asks for nothing: written by tools that print defaults.
const ZERO_IS_DEFAULT: [&str; 9] = [
    "cpuManagerReconcilePeriod",
    "httpCheckFrequency",
    "imageMaximumGCAge",
    "imageMinimumGCAge",
    "runtimeRequestTimeout",
    "shutdownGracePeriod",
    "shutdownGracePeriodCriticalPods",
    "streamingConnectionIdleTimeout",
    "volumeStatsAggPeriod",
];

/// The fields of one mapping that nobody took yet, and what was wrong with the others.
pub(super) struct Reader {
    pub fields: BTreeMap<String, Value>,
    pub problems: Vec<Problem>,
}

impl Reader {
    pub fn empty() -> Self {
        Self { fields: BTreeMap::new(), problems: Vec::new() }
    }

    pub fn problem(&mut self, severity: Severity, field: &str, message: String) {
        self.problems.push(Problem {
            kind: Kind::File,
            key: ObjectKey::new("", "KubeletConfiguration"),
            severity,
            reason: "InvalidConfiguration",
            field: field.into(),
            message,
        });
    }

    pub fn error(&mut self, field: &str, message: String) {
        self.problem(Severity::Error, field, message);
    }

    pub fn warning(&mut self, field: &str, message: impl Into<String>) {
        self.problem(Severity::Warning, field, message.into());
    }

    /// Reads the mapping at `field` with `read`; what that leaves is not read by anyone.
    pub fn nested(&mut self, field: &str, read: impl FnOnce(&mut Reader)) {
        let mut inner = Reader::empty();
        match self.fields.remove(field) {
            None | Some(Value::Null) => return,
            Some(Value::Object(fields)) => inner.fields = fields.into_iter().collect(),
            Some(_) => return self.error(field, "is not a mapping".into()),
        }
        read(&mut inner);
        inner.rest();
        for mut problem in inner.problems {
            problem.field = format!("{field}.{}", problem.field);
            self.problems.push(problem);
        }
    }

    /// The mapping of strings at `field`; numbers are taken as their text.
    pub fn mapping(&mut self, field: &str) -> Option<BTreeMap<String, String>> {
        let value = self.fields.remove(field)?;
        let fields = match value {
            Value::Null => return None,
            Value::Object(fields) => fields,
            _ => {
                self.error(field, "is not a mapping".into());
                return None;
            }
        };
        let mut texts = BTreeMap::new();
        for (name, value) in fields {
            match value {
                Value::String(text) => drop(texts.insert(name, text)),
                Value::Number(number) => drop(texts.insert(name, number.to_string())),
                other => {
                    self.error(&format!("{field}.{name}"), format!("is {other}, not a string"));
                }
            }
        }
        Some(texts)
    }

    /// As [`Reader::text`], but an empty text keeps the default.
    pub fn word(&mut self, field: &str, into: &mut String) {
        let mut found = String::new();
        self.text(field, &mut found);
        if !found.is_empty() {
            *into = found;
        }
    }

    /// What nobody took: not read yet, or not a field at all.
    pub fn rest(&mut self) {
        let fields = std::mem::take(&mut self.fields);
        for (field, value) in fields {
            let zero = matches!(value.to_string().as_str(), "\"0s\"" | "0" | "false");
            if value.is_null() || zero && ZERO_IS_DEFAULT.contains(&field.as_str()) {
                continue;
            }
            match ISOLATION.iter().find(|(name, ..)| *name == field) {
                Some((.., same)) if same.contains(&value.to_string().as_str()) => {}
                Some((_, loss, _)) => self.error(
                    &field,
                    format!("is not supported and {loss}: remove it or run a kubelet here"),
                ),
                None => self.problem(
                    Severity::Warning,
                    &field,
                    "is not read by Longshore and has no effect".into(),
                ),
            }
        }
    }

    pub fn text(&mut self, field: &str, into: &mut String) {
        match self.fields.remove(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => *into = text,
            Some(other) => self.error(field, format!("is {other}, not a string")),
        }
    }

    pub fn texts(&mut self, field: &str, into: &mut Vec<String>) {
        match self.fields.remove(field) {
            None | Some(Value::Null) => {}
            Some(Value::Array(items)) => {
                for (i, item) in items.into_iter().enumerate() {
                    match item {
                        Value::String(text) => into.push(text),
                        other => self
                            .error(&format!("{field}[{i}]"), format!("is {other}, not a string")),
                    }
                }
            }
            Some(other) => self.error(field, format!("is {other}, not a list")),
        }
    }

    pub fn flag(&mut self, field: &str, into: &mut bool) {
        match self.fields.remove(field) {
            None | Some(Value::Null) => {}
            Some(Value::Bool(flag)) => *into = flag,
            Some(other) => self.error(field, format!("is {other}, not true or false")),
        }
    }

    pub fn number(&mut self, field: &str, range: RangeInclusive<i64>, into: &mut i64) {
        match self.fields.remove(field) {
            None | Some(Value::Null) => {}
            Some(value) => match value.as_i64().filter(|n| range.contains(n)) {
                Some(n) => *into = n,
                None => self.error(
                    field,
                    format!("is {value}: not between {} and {}", range.start(), range.end()),
                ),
            },
        }
    }

    /// As [`Reader::number`], but 0 keeps the default, whether it is in the range or not.
    pub fn count(&mut self, field: &str, range: RangeInclusive<i64>, into: &mut i64) {
        if self.fields.get(field).and_then(Value::as_i64) == Some(0) {
            self.fields.remove(field);
        }
        self.number(field, range, into);
    }

    /// A Go duration (`1m30s`, `500ms`); `0s` means "the default".
    pub fn millis(&mut self, field: &str, range: RangeInclusive<i64>, into: &mut i64) {
        let mut text = String::new();
        self.text(field, &mut text);
        if text.is_empty() || text == "0" || text == "0s" {
            return;
        }
        match duration_ms(&text).filter(|ms| range.contains(ms)) {
            Some(ms) => *into = ms,
            None => self.error(
                field,
                format!("{text:?} is not between {} ms and {} ms", range.start(), range.end()),
            ),
        }
    }
}

/// Milliseconds of a Go duration; parts below one are cut.
pub fn duration_ms(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total_us = 0i64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let (digits, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let unit_us = match unit {
            "us" | "µs" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            _ => return None,
        };
        total_us = total_us.checked_add(digits.parse::<i64>().ok()?.checked_mul(unit_us)?)?;
        rest = next;
    }
    Some(total_us / 1000)
}
