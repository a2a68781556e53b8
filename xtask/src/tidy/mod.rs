//! The rules of the house that a compiler does not check. Also a test: `cargo test -p xtask`.

mod imports;
mod lex;
mod rules;
mod source;
mod spec;
mod table;

use std::path::Path;

use anyhow::Result;

use crate::paths;
use source::Source;

/// Something that a rule refuses.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Violation {
    /// Relative to the repository.
    pub file: String,
    /// From 1.
    pub line: usize,
    pub text: String,
}

impl Violation {
    fn new(source: &Source, line: usize, text: impl Into<String>) -> Self {
        Self { file: source.path.clone(), line, text: text.into() }
    }
}

/// Prints every violation; true: there is none.
pub fn print() -> Result<bool> {
    let found = check(&paths::root())?;
    for one in &found {
        println!("{}:{}: {}", one.file, one.line, one.text);
    }
    println!("tidy: {} violations", found.len());
    Ok(found.is_empty())
}

/// All rules on all files that git tracks or would track.
pub fn check(root: &Path) -> Result<Vec<Violation>> {
    let sources = source::load(root)?;
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        found.extend(imports::check(source));
        found.extend(rules::unsafe_room(source));
        found.extend(rules::spawn_room(source));
        found.extend(rules::clock_room(source));
        found.extend(rules::size(source));
        found.extend(spec::numbers_of_tests(source));
    }
    for source in &sources {
        found.extend(rules::machine_paths(source));
    }
    found.extend(spec::check(&sources));
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_repository_is_tidy() {
        let found = super::check(&crate::paths::root()).unwrap();
        let lines: Vec<String> =
            found.iter().map(|one| format!("{}:{}: {}", one.file, one.line, one.text)).collect();
        assert!(lines.is_empty(), "\n{}", lines.join("\n"));
    }
}
