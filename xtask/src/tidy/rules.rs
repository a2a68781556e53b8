//! Rules about single files: unsafe, spawns, clocks, sizes, paths of somebody's machine.

use super::Violation;
use super::imports::paths;
use super::lex::tokens;
use super::source::Source;

/// Lines of a file that are not tests.
const LINES_MAX: usize = 800;

/// Rule: `unsafe` only in `agent/src/sys` and `ebpf/`.
pub fn unsafe_room(source: &Source) -> Vec<Violation> {
    let inside = |prefix: &str| source.path.starts_with(prefix);
    if inside("agent/src/sys/") || source.path == "agent/src/sys.rs" || inside("ebpf/") {
        return Vec::new();
    }
    tokens(&source.code)
        .into_iter()
        .filter(|token| token.text == "unsafe")
        .map(|token| {
            Violation::new(source, token.line, "unsafe is only in agent/src/sys and ebpf/")
        })
        .collect()
}

/// Rule: tasks and threads are started only by `agent/src/supervise.rs`.
pub fn spawn_room(source: &Source) -> Vec<Violation> {
    if !source.path.starts_with("agent/") || source.path == "agent/src/supervise.rs" {
        return Vec::new();
    }
    let spawns = |segments: &[String]| {
        let words: Vec<&str> = segments.iter().map(String::as_str).collect();
        words.iter().any(|word| matches!(*word, "spawn_blocking" | "spawn_local" | "JoinSet"))
            || words.windows(2).any(|pair| {
                matches!(pair, ["tokio" | "task" | "thread", "spawn"] | ["thread", "Builder"])
            })
    };
    let mut found: Vec<Violation> = paths(&source.product)
        .into_iter()
        .filter(|named| spawns(&named.segments))
        .map(|named| {
            Violation::new(source, named.line, "only supervise.rs spawns: supervise::Scope")
        })
        .collect();
    // A name that a `use` brought in.
    let all = tokens(&source.product);
    let calls = all.iter().zip(all.iter().skip(1)).filter(|(word, next)| {
        matches!(word.text, "spawn_blocking" | "spawn_local") && next.text == "("
    });
    found.extend(calls.map(|(word, _)| {
        Violation::new(source, word.line, "only supervise.rs spawns: supervise::Scope")
    }));
    found.sort();
    found.dedup();
    found
}

/// Rule: clocks and randomness are read only by `agent/src/clock.rs`.
pub fn clock_room(source: &Source) -> Vec<Violation> {
    let product = source.path.starts_with("agent/") || source.path.starts_with("ebpf/");
    // The kernel's clock reaches the packet logic through its `Maps`, filled by the programs.
    let exempt = source.path == "agent/src/clock.rs" || source.path.starts_with("ebpf/programs/");
    if !product || exempt {
        return Vec::new();
    }
    let reads = |segments: &[String]| {
        let words: Vec<&str> = segments.iter().map(String::as_str).collect();
        words.first().is_some_and(|first| matches!(*first, "rand" | "getrandom" | "fastrand"))
            || words.windows(2).any(|pair| {
                matches!(pair, ["Instant" | "SystemTime" | "Timestamp" | "Zoned", "now"])
                    || matches!(pair, ["Uuid", "new_v4"] | ["RandomState", "new"])
            })
    };
    paths(&source.product)
        .into_iter()
        .filter(|named| reads(&named.segments))
        .map(|named| {
            let text = "clocks and randomness are only in agent/src/clock.rs: clock::now()";
            Violation::new(source, named.line, text)
        })
        .collect()
}

/// Rule: no file above 800 lines that are not tests.
pub fn size(source: &Source) -> Vec<Violation> {
    // Blanked test modules keep their line ends, so only lines with code or comments count.
    let blanked = source.product.lines().map(str::trim);
    let original = source.text.lines().map(str::trim);
    let code = source.code.lines().map(str::trim);
    let lines = blanked
        .zip(original)
        .zip(code)
        .filter(|((kept, original), code)| {
            !kept.is_empty() || (code.is_empty() && !original.is_empty())
        })
        .count();
    if lines <= LINES_MAX {
        return Vec::new();
    }
    let text = format!("{lines} lines that are not tests, at most {LINES_MAX}: split the file");
    vec![Violation::new(source, 1, text)]
}

/// Rule: no path that only one machine has.
pub fn machine_paths(source: &Source) -> Vec<Violation> {
    let machine = [concat!("/wo", "rk"), concat!("/ro", "ot"), concat!("/tmp/", "tgt")];
    let mut found = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for path in machine {
            if names_path(line, path) {
                found.push(Violation::new(
                    source,
                    index + 1,
                    format!("{path} is one machine's path"),
                ));
            }
        }
    }
    found
}

/// The path starts there (not in the middle of another) and its last word ends there or goes on
/// with a suffix of a build directory.
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + path.len()..].chars().next();
        let starts = before.is_none_or(|letter| {
            !letter.is_alphanumeric()
                && !matches!(letter, '_' | '-' | '.' | '}' | ')' | '@' | '>' | '*')
        });
        let ends = after.is_none_or(|letter| !letter.is_alphanumeric() && letter != '_');
        starts && (ends && after != Some('-') || path.starts_with("/tmp"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source::new(path, text)
    }

    #[test]
    fn unsafe_outside_its_rooms_is_refused() {
        let text = "fn f() { unsafe { g() } } // unsafe";
        assert_eq!(unsafe_room(&source("agent/src/effects/mount.rs", text)).len(), 1);
        assert_eq!(unsafe_room(&source("tests/src/x.rs", text)).len(), 1);
        assert_eq!(unsafe_room(&source("agent/src/sys/setns.rs", text)).len(), 0);
        assert_eq!(
            unsafe_room(&source("agent/src/app.rs", "// unsafe\nlet a = \"unsafe\";")).len(),
            0
        );
    }

    #[test]
    fn spawns_outside_supervise_are_refused() {
        for text in [
            "fn f() { tokio::spawn(async {}); }",
            "use tokio::task::spawn_blocking;",
            "fn f() { std::thread::spawn(|| ()); }",
            "use std::thread; fn f() { thread::Builder::new(); }",
            "fn f() { let mut set = tokio::task::JoinSet::new(); }",
        ] {
            assert_eq!(spawn_room(&source("agent/src/workers/pod.rs", text)).len(), 1, "{text}");
            assert_eq!(spawn_room(&source("agent/src/supervise.rs", text)).len(), 0, "{text}");
        }
        let fine = "fn f(scope: &Scope) { scope.spawn(\"pod\", Policy::Finite, async {}); }";
        assert_eq!(spawn_room(&source("agent/src/workers/pod.rs", fine)).len(), 0);
    }

    #[test]
    fn clocks_outside_their_room_are_refused() {
        for text in [
            "fn f() { let a = std::time::Instant::now(); }",
            "fn f() { SystemTime::now(); }",
            "fn f() { jiff::Timestamp::now(); }",
            "use rand::Rng;",
        ] {
            assert_eq!(clock_room(&source("agent/core/src/pod/x.rs", text)).len(), 1, "{text}");
            assert_eq!(clock_room(&source("agent/src/clock.rs", text)).len(), 0, "{text}");
        }
        let fine = "fn f(now: Time) { clock::now(); }";
        assert_eq!(clock_room(&source("agent/src/app.rs", fine)).len(), 0);
    }

    #[test]
    fn long_files_are_refused_and_tests_do_not_count() {
        let long = "fn f() {}\n".repeat(801);
        assert_eq!(size(&source("agent/src/app.rs", &long)).len(), 1);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert_eq!(size(&source("agent/src/app.rs", &tests)).len(), 0);
        let comments = "// why\n".repeat(801);
        assert_eq!(size(&source("agent/src/app.rs", &comments)).len(), 1);
    }

    #[test]
    fn machine_paths_are_refused() {
        let path = concat!("/ro", "ot");
        for text in
            [format!("cd {path}/x"), format!("\"{path}\""), concat!("/tmp/", "tgt-a").into()]
        {
            assert_eq!(machine_paths(&source("README.md", &text)).len(), 1, "{text}");
        }
        for text in ["/sys/fs/cgroup/{dir}/root", "$N/root", "tests/workload", "/rootfs"] {
            assert_eq!(machine_paths(&source("README.md", text)).len(), 0, "{text}");
        }
    }
}
