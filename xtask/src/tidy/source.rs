//! The files of the repository, and their Rust code without comments, strings and tests.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use longshore_tests::process::Run;

use super::lex;

/// One file.
pub struct Source {
    /// Relative to the repository, with `/`.
    pub path: String,
    pub text: String,
    /// Rust only: comments and the contents of strings are spaces, lines are where they were.
    pub code: String,
    /// `code` with test modules blanked too; empty for a file that is only a test.
    pub product: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") { lex::blank(text) } else { String::new() };
        let product =
            if is_test_file(path) { String::new() } else { lex::blank_test_modules(&code) };
        Self { path: path.to_owned(), text: text.to_owned(), code, product }
    }

    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// By place; files that `#[cfg(test)] mod x;` declares are found by [`load`].
fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.ends_with("_tests.rs") || path.contains("/tests/")
}

/// Every text file that git tracks or would track.
pub fn load(root: &Path) -> Result<Vec<Source>> {
    let list =
        Run::new("git").words("ls-files --cached --others --exclude-standard").dir(root).check()?;
    let mut sources: Vec<Source> = list
        .lines()
        .collect::<BTreeSet<_>>()
        .into_iter()
        // A binary file, or one that is deleted and not yet committed, has no text.
        .filter_map(|path| Some(Source::new(path, &std::fs::read_to_string(root.join(path)).ok()?)))
        .collect();
    let tests: Vec<String> = sources.iter().flat_map(test_children).collect();
    for source in &mut sources {
        if tests.iter().any(|prefix| source.path.starts_with(prefix)) {
            source.product.clear();
        }
    }
    Ok(sources)
}

/// Prefixes of the files that are modules only of the tests of `source`.
fn test_children(source: &Source) -> Vec<String> {
    let Some((dir, file)) = source.path.rsplit_once('/') else { return Vec::new() };
    let dir = match file.trim_end_matches(".rs") {
        "mod" | "lib" | "main" => dir.to_owned(),
        module => format!("{dir}/{module}"),
    };
    lex::test_module_files(&source.code)
        .into_iter()
        .flat_map(|name| [format!("{dir}/{name}.rs"), format!("{dir}/{name}/")])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_declared_for_tests_is_a_test() {
        let source = Source::new("agent/src/x/mod.rs", "#[cfg(test)]\nmod fake;\nmod real;\n");
        assert_eq!(test_children(&source), ["agent/src/x/fake.rs", "agent/src/x/fake/"]);
    }
}
