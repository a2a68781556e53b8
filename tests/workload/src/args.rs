//! Words and `--name value` options. Small on purpose: the binary is in every test image.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

/// The words of a command line in order, and its options.
pub struct Args {
    words: std::vec::IntoIter<String>,
    options: BTreeMap<String, String>,
}

/// Options that stand alone.
const FLAGS: [&str; 1] = ["quiet"];

impl Args {
    pub fn from_env() -> Self {
        Self::parse(std::env::args().skip(1))
    }

    fn parse(args: impl Iterator<Item = String>) -> Self {
        let mut words = Vec::new();
        let mut options = BTreeMap::new();
        let mut args = args;
        while let Some(arg) = args.next() {
            let Some(name) = arg.strip_prefix("--") else {
                words.push(arg);
                continue;
            };
            if let Some((name, value)) = name.split_once('=') {
                options.insert(name.to_owned(), value.to_owned());
            } else if FLAGS.contains(&name) {
                options.insert(name.to_owned(), String::new());
            } else {
                options.insert(name.to_owned(), args.next().unwrap_or_default());
            }
        }
        Self { words: words.into_iter(), options }
    }

    /// The next word.
    pub fn next(&mut self) -> Option<String> {
        self.words.next()
    }

    pub fn required(&mut self, what: &str) -> Result<String, String> {
        self.next().ok_or_else(|| format!("{what} is missing"))
    }

    pub fn has(&self, name: &str) -> bool {
        self.options.contains_key(name)
    }

    pub fn option<T: FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        match self.options.get(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("--{name} {text}: not a value")),
        }
    }

    /// `--name` in seconds; fractions are allowed.
    pub fn seconds(&self, name: &str, default_s: f64) -> Result<Duration, String> {
        let value: f64 = self.option(name, default_s)?;
        Duration::try_from_secs_f64(value).map_err(|error| format!("--{name}: {error}"))
    }

    /// `--name` in milliseconds.
    pub fn millis(&self, name: &str, default_ms: u64) -> Result<Duration, String> {
        Ok(Duration::from_millis(self.option(name, default_ms)?))
    }
}

#[cfg(test)]
mod tests {
    use super::Args;

    #[test]
    fn words_and_options_stand_in_any_order() {
        let line = ["get", "--timeout", "2", "http://web/", "--count=3", "--quiet"];
        let mut args = Args::parse(line.into_iter().map(str::to_owned));
        assert_eq!(args.next().as_deref(), Some("get"));
        assert_eq!(args.next().as_deref(), Some("http://web/"));
        assert_eq!(args.seconds("timeout", 9.0).unwrap().as_secs(), 2);
        assert_eq!(args.option("count", 1u32), Ok(3));
        assert!(args.has("quiet"));
        assert!(args.option("count", 0u8).is_ok() && args.option::<u8>("timeout", 0) == Ok(2));
    }
}
