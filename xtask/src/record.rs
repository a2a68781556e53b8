//! The record of `make test-all` in CONTRIBUTING.md: one table that is written anew.

use anyhow::{Context, Result};
use longshore_tests::process::Run;

use crate::lanes::Line;
use crate::paths;

const BEGIN: &str = "<!-- test-all: begin -->";
const END: &str = "<!-- test-all: end -->";

/// The commit that is checked out: asked for before the parts run, which take long.
///
/// # Errors
/// Not a clone.
pub fn commit() -> Result<String> {
    let text = Run::new("git").words("rev-parse --short HEAD").dir(&paths::root()).check()?;
    Ok(text.trim().to_owned())
}

/// Writes date, commit and result of each part that ran; other parts keep their line.
pub fn write(lines: &[Line], commit: &str) -> Result<()> {
    let path = paths::root().join("CONTRIBUTING.md");
    let text = std::fs::read_to_string(&path).context("CONTRIBUTING.md is missing")?;
    let date = Run::new("date").args(["-u", "+%Y-%m-%d"]).check()?;
    let rows: Vec<Row> = lines.iter().map(|line| Row::new(line, date.trim(), commit)).collect();
    let new = replace(&text, &rows).context("CONTRIBUTING.md has no test-all section")?;
    Ok(std::fs::write(path, new)?)
}

struct Row {
    part: String,
    text: String,
}

impl Row {
    fn new(line: &Line, date: &str, commit: &str) -> Self {
        let result = if line.count.failed == 0 { "passed" } else { "failed" };
        let minutes = line.seconds.div_ceil(60);
        let part = line.name.clone();
        Self { text: format!("| {part} | {date} | {commit} | {result} | {minutes} min |"), part }
    }
}

fn replace(text: &str, rows: &[Row]) -> Option<String> {
    let (head, rest) = text.split_once(BEGIN)?;
    let (old, tail) = rest.split_once(END)?;
    let mut lines: Vec<String> =
        old.lines().filter(|line| line.starts_with("| ")).skip(1).map(str::to_owned).collect();
    for row in rows {
        let start = format!("| {} |", row.part);
        match lines.iter_mut().find(|line| line.starts_with(&start)) {
            Some(line) => row.text.clone_into(line),
            None => lines.push(row.text.clone()),
        }
    }
    let table = lines.join("\n");
    Some(format!(
        "{head}{BEGIN}\n| part | date | commit | result | time |\n|---|---|---|---|---|\n{table}\n{END}{tail}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::Count;

    #[test]
    fn a_part_has_one_line_and_others_keep_theirs() {
        let text = format!(
            "a\n{BEGIN}\n| part | date |\n|---|---|\n| deny | old |\n| x | kept |\n{END}\nb\n"
        );
        let line = Line { name: "deny".into(), seconds: 61, count: Count { passed: 1, failed: 0 } };
        let new = replace(&text, &[Row::new(&line, "2026-11-20", "abc")]).unwrap();
        assert!(new.contains("| deny | 2026-11-20 | abc | passed | 2 min |"), "{new}");
        assert!(new.contains("| x | kept |") && !new.contains("old"), "{new}");
        assert!(new.starts_with("a\n") && new.ends_with("b\n"));
        let again = replace(&new, &[Row::new(&line, "2026-11-20", "abc")]).unwrap();
        assert_eq!(new, again);
    }
}
