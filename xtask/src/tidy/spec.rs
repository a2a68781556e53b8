//! Rules about SPECIFICATION.md: every line names tests that exist, and numbers are the contract's.
//!
//! A line: ``- **A48** text — `path/to/file.rs::test_name`, `path/to/other.rs::test_name` ``

use super::Violation;
use super::lex::tokens;
use super::source::Source;

const FILE: &str = "SPECIFICATION.md";

/// The contract's letters and their last numbers; I are the invariants, F the faults.
const NUMBERS: [(char, u32); 5] = [('A', 211), ('B', 50), ('C', 29), ('I', 15), ('F', 67)];

pub fn check(sources: &[Source]) -> Vec<Violation> {
    let Some(file) = sources.iter().find(|source| source.path == FILE) else {
        let text = "is missing: it says what holds, each line with its test".to_owned();
        return vec![Violation { file: FILE.to_owned(), line: 1, text }];
    };
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let Some(row) = line.strip_prefix("- **") else { continue };
        for text in check_row(row, sources) {
            found.push(Violation::new(file, index + 1, text));
        }
    }
    found
}

fn check_row(row: &str, sources: &[Source]) -> Vec<String> {
    let Some((number, rest)) = row.split_once("**") else {
        return vec!["a line is `- **A48** text — `file.rs::test``".to_owned()];
    };
    let mut found = Vec::new();
    for one in number.split(", ") {
        if !is_number(one) {
            found.push(format!("{one} is no number of the contract"));
        }
    }
    let Some((_, tests)) = rest.rsplit_once(" — ") else {
        found.push("no ` — ` before the tests".to_owned());
        return found;
    };
    let tests: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
    if tests.is_empty() {
        found.push("names no test".to_owned());
    }
    for test in tests {
        let exists = test.split_once("::").is_some_and(|(path, name)| {
            sources.iter().any(|source| {
                source.path == path && tests_of(source).iter().any(|(n, _)| n == name)
            })
        });
        if !exists {
            found.push(format!("there is no test {test}"));
        }
    }
    found
}

fn is_number(text: &str) -> bool {
    let mut letters = text.chars();
    let Some(letter) = letters.next() else { return false };
    let Ok(number) = letters.as_str().parse::<u32>() else { return false };
    NUMBERS.iter().any(|(known, last)| *known == letter && (1..=*last).contains(&number))
}

/// Rule: a test that is named with a number of the contract is named with one that exists.
pub fn numbers_of_tests(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    for (name, line) in tests_of(source) {
        for word in name.split('_') {
            let Some(letter) = word.chars().next().filter(|letter| "abcif".contains(*letter))
            else {
                break;
            };
            let digits = &word[1..];
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                break;
            }
            let number = format!("{}{digits}", letter.to_ascii_uppercase());
            if !is_number(&number) {
                let text = format!("test {name}: {number} is no number of the contract");
                found.push(Violation::new(source, line, text));
            }
        }
    }
    found
}

/// Names and lines of the functions with a test attribute, also inside `proptest!`.
fn tests_of(source: &Source) -> Vec<(String, usize)> {
    let tokens = tokens(&source.code);
    let mut found = Vec::new();
    let mut is_test = false;
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].text {
            "#" if tokens.get(at + 1).is_some_and(|token| token.text == "[") => {
                let close = tokens[at..].iter().position(|token| token.text == "]");
                let end = at + close.unwrap_or(1);
                // #[test], #[tokio::test], #[tokio::test(flavor = …)]
                let path = tokens[at + 2..end].iter().take_while(|token| token.text != "(");
                is_test |= path.last().is_some_and(|token| token.text == "test");
                at = end;
            }
            "fn" if is_test => {
                if let Some(name) = tokens.get(at + 1) {
                    found.push((name.text.to_owned(), name.line));
                }
                is_test = false;
            }
            "{" | "}" | ";" => is_test = false,
            _ => {}
        }
        at += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "mod tests {\n#[test]\nfn a48_waits() {}\n#[tokio::test(start_paused = true)]\n\
        async fn i2_one() {}\nfn helper() {}\nproptest! { #[test]\nfn i15_order(x in 0..3) {} }\n}";

    fn check_line(line: &str) -> Vec<String> {
        let sources = [Source::new(FILE, line), Source::new("agent/x.rs", CODE)];
        check(&sources).into_iter().map(|one| one.text).collect()
    }

    #[test]
    fn a_line_names_tests_that_exist() {
        assert!(check_line("- **A48** waits — `agent/x.rs::a48_waits`").is_empty());
        assert!(
            check_line("- **A48, I2** x — `agent/x.rs::i2_one`, `agent/x.rs::i15_order`")
                .is_empty()
        );
        assert_eq!(check_line("- **A48** x — `agent/x.rs::helper`").len(), 1);
        assert_eq!(check_line("- **A48** x — `agent/y.rs::a48_waits`").len(), 1);
        assert_eq!(check_line("- **A48** x").len(), 1);
        assert_eq!(check_line("- **A48** x — nothing").len(), 1);
        assert_eq!(check_line("- **A999** x — `agent/x.rs::a48_waits`").len(), 1);
    }

    #[test]
    fn a_missing_specification_is_a_violation() {
        assert_eq!(check(&[]).len(), 1);
    }

    #[test]
    fn tests_cite_numbers_that_exist() {
        let bad =
            "#[test]\nfn a48_b51_x() {}\n#[test]\nfn a_plain_name() {}\n#[test]\nfn i16_x() {}";
        assert_eq!(numbers_of_tests(&Source::new("agent/x.rs", bad)).len(), 2);
        assert!(numbers_of_tests(&Source::new("agent/x.rs", CODE)).is_empty());
    }
}
