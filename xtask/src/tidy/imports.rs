//! Rule: a room imports only what the table of ARCHITECTURE.md gives it.

use super::Violation;
use super::lex::{Token, tokens};
use super::source::Source;
use super::table::{Room, libraries, room_of, rooms};

/// A path that the code names: its segments from the crate on, and its line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    pub segments: Vec<String>,
    pub line: usize,
}

/// Crates of this workspace and what their rooms are called in the table.
const CRATES: [(&str, &str); 6] = [
    ("longshore", "agent"),
    ("longshore_abi", "abi"),
    ("longshore_core", "core"),
    ("longshore_packet", "packet"),
    ("longshore_proto", "proto"),
    ("longshore_tests", "tests"),
];

pub fn check(source: &Source) -> Vec<Violation> {
    let Some(room) = room_of(&source.path) else { return Vec::new() };
    let mut found = Vec::new();
    for named in paths(&source.product) {
        if let Some(text) = refuse(&room, &source.path, &named) {
            found.push(Violation::new(source, named.line, text));
        }
    }
    found
}

fn refuse(room: &str, file: &str, named: &Named) -> Option<String> {
    let first = named.segments.first()?.as_str();
    if let Some(allowed) = libraries(first) {
        return (!allowed.contains(&room)).then(|| {
            format!("`{room}` may not use the library {first}: only {} may", allowed.join(", "))
        });
    }
    let target = target(room, file, named)?;
    let target_room = target.split("::").take(2).collect::<Vec<_>>().join("::");
    if target_room == room || target == room || target.starts_with(&format!("{room}::")) {
        return None;
    }
    let entry: &Room = rooms().iter().find(|entry| entry.name == room)?;
    let allowed =
        entry.may.iter().any(|may| target == *may || target.starts_with(&format!("{may}::")));
    (!allowed).then(|| {
        format!(
            "`{room}` may not import `{target}`; it may import {}. An edge that is right is added \
             to ARCHITECTURE.md and xtask/src/tidy/table.rs with its reason",
            if entry.may.is_empty() { "nothing".to_owned() } else { entry.may.join(", ") }
        )
    })
}

/// `core::model::Pod` for `crate::model::Pod` in core or `longshore_core::model::Pod`.
/// `None`: not a path into the workspace.
fn target(room: &str, file: &str, named: &Named) -> Option<String> {
    let (first, rest) = named.segments.split_first()?;
    let join = |head: &str, rest: &[String]| {
        let mut parts = vec![head.to_owned()];
        parts.extend(rest.iter().cloned());
        parts.join("::")
    };
    if let Some((_, name)) = CRATES.iter().find(|(crate_name, _)| crate_name == first) {
        return Some(join(name, rest));
    }
    let package = room.split("::").next()?;
    match first.as_str() {
        "crate" => Some(join(package, rest)),
        "super" => {
            let ups = named.segments.iter().take_while(|segment| *segment == "super").count();
            let module = module_of(file)?;
            let base = module.len().checked_sub(ups)?;
            let mut parts = vec![package.to_owned()];
            parts.extend(module[..base].iter().cloned());
            parts.extend(named.segments[ups..].iter().cloned());
            Some(parts.join("::"))
        }
        _ => None,
    }
}

/// `agent/src/cni/server.rs` → `[cni, server]`
fn module_of(file: &str) -> Option<Vec<String>> {
    let (_, inside) = file.split_once("/src/")?;
    let mut parts: Vec<String> =
        inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        parts.pop();
    }
    Some(parts)
}

/// Every path in `use` trees and in expressions. Only those that start a path: `a::b` gives `a::b`.
pub fn paths(code: &str) -> Vec<Named> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].text == "use" && !after_path_or_dot(&tokens, at) {
            at = use_tree(&tokens, at + 1, &[], &mut found);
            continue;
        }
        if is_name(tokens[at].text) && !after_path_or_dot(&tokens, at) {
            let (segments, end) = simple_path(&tokens, at);
            if segments.len() > 1 {
                found.push(Named { segments, line: tokens[at].line });
            }
            at = end;
            continue;
        }
        at += 1;
    }
    found
}

fn after_path_or_dot(tokens: &[Token<'_>], at: usize) -> bool {
    at.checked_sub(1).is_some_and(|before| {
        let is_path = tokens[before].text == "::"
            && before
                .checked_sub(1)
                .is_some_and(|word| is_name(tokens[word].text) || tokens[word].text == ">");
        is_path || tokens[before].text == "."
    })
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
}

fn simple_path(tokens: &[Token<'_>], at: usize) -> (Vec<String>, usize) {
    let mut segments = vec![tokens[at].text.to_owned()];
    let mut at = at + 1;
    while tokens.get(at).is_some_and(|token| token.text == "::")
        && tokens.get(at + 1).is_some_and(|token| is_name(token.text))
    {
        segments.push(tokens[at + 1].text.to_owned());
        at += 2;
    }
    (segments, at)
}

/// One tree of a `use`, up to and with its `;`, `,` or `}`. Gives the index after it.
fn use_tree(
    tokens: &[Token<'_>],
    start: usize,
    prefix: &[String],
    found: &mut Vec<Named>,
) -> usize {
    let mut segments = prefix.to_vec();
    let mut at = start;
    let mut grouped = false;
    while let Some(token) = tokens.get(at) {
        match token.text {
            "::" => at += 1,
            "as" => at += 2,
            "{" => {
                grouped = true;
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = use_tree(tokens, at, &segments, found);
                    if tokens.get(at).is_some_and(|token| token.text == ",") {
                        at += 1;
                    }
                }
                at += 1;
            }
            "*" => at += 1,
            ";" | "," | "}" => break,
            name => {
                if name != "self" {
                    segments.push(name.to_owned());
                }
                at += 1;
            }
        }
    }
    if !grouped && !segments.is_empty() {
        let line = tokens.get(start).map_or(0, |token| token.line);
        found.push(Named { segments, line });
    }
    match tokens.get(at) {
        Some(token) if token.text == ";" => at + 1,
        _ => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(code: &str) -> Vec<String> {
        paths(code).into_iter().map(|named| named.segments.join("::")).collect()
    }

    #[test]
    fn use_trees_and_inline_paths_are_read() {
        assert_eq!(
            named("use crate::{pod::{self, Action as A, x::*}, model::Time};\npub use super::y;"),
            ["crate::pod", "crate::pod::Action", "crate::pod::x", "crate::model::Time", "super::y"]
        );
        assert_eq!(
            named(
                "fn f(a: crate::model::Time) { a.b::<u8>(); crate::pod::decide(&longshore_core::x::Y) }"
            ),
            ["crate::model::Time", "crate::pod::decide", "longshore_core::x::Y"]
        );
    }

    fn check_text(path: &str, text: &str) -> usize {
        check(&Source::new(path, text)).len()
    }

    #[test]
    fn an_edge_that_is_not_in_the_table_is_refused() {
        let core = "agent/core/src/pod/decide.rs";
        assert_eq!(check_text(core, "use crate::model::Time;"), 0);
        assert_eq!(check_text(core, "use crate::{model::Time, service::Image};"), 1);
        assert_eq!(check_text(core, "fn f() { crate::policy::compile() }"), 1);
        let effects = "agent/src/effects/cri.rs";
        assert_eq!(check_text(effects, "use crate::workers::pod;"), 1);
        assert_eq!(check_text(effects, "use super::super::workers;"), 1);
        assert_eq!(check_text(effects, "use super::cgroup;"), 0);
        assert_eq!(check_text("agent/src/serve/admin.rs", "use crate::app::run;"), 1);
        assert_eq!(
            check_text("agent/core/src/oracle/walk.rs", "use longshore_packet::Verdict;"),
            1
        );
    }

    #[test]
    fn a_library_of_another_room_is_refused() {
        assert_eq!(check_text("agent/src/workers/pod.rs", "use aya::maps::HashMap;"), 1);
        assert_eq!(check_text("agent/src/dataplane/load.rs", "use aya::maps::HashMap;"), 0);
        assert_eq!(check_text("agent/src/dataplane/load.rs", "use kube::Client;"), 1);
    }

    #[test]
    fn tests_may_import_what_they_judge() {
        let text = "#[cfg(test)]\nmod tests { use longshore_packet::Verdict; }";
        assert_eq!(check_text("agent/core/src/oracle/walk.rs", text), 0);
    }
}
