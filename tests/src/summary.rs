//! The last line of a client that connected many times.

/// `7 ok, 2 failed, longest 3 ms`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    pub ok: u64,
    pub failed: u64,
}

impl Summary {
    /// # Panics
    /// There is none: the client was killed before it could count.
    pub fn last(log: &str) -> Self {
        Self::of(log).unwrap_or_else(|| panic!("no summary of a client: {log}"))
    }

    fn of(text: &str) -> Option<Self> {
        text.lines().rev().find_map(|line| {
            let (ok, rest) = line.split_once(" ok, ")?;
            let (failed, _) = rest.split_once(" failed")?;
            Some(Self { ok: ok.parse().ok()?, failed: failed.parse().ok()? })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn numbers_are_read_as_numbers() {
        let text = "web-1\n10 ok, 0 failed, longest 3 ms\n";
        assert_eq!(Summary::of(text), Some(Summary { ok: 10, failed: 0 }));
        assert_eq!(Summary::of("0 ok, 100 failed,"), Some(Summary { ok: 0, failed: 100 }));
        for none in ["", "refused after 3 ms", "all ok, 0 failed"] {
            assert_eq!(Summary::of(none), None, "{none}");
        }
    }
}
