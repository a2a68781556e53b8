//! Text → documents with lines, under budgets (F65, CVE row 26).
//!
//! Plain scalars become what the API's own YAML reader makes of them (YAML 1.1: `yes` is true, `0644`
//! is 420), so that a manifest means here what it means to `kubectl apply`.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

/// Bytes of one file; larger files are refused before they are parsed.
pub const FILE_BYTES_MAX: usize = 4 << 20;

/// Nesting of one document.
const DEPTH_MAX: usize = 32;

/// One document (or one item of a `List`).
#[derive(Clone, Debug)]
pub struct Document {
    pub line: u64,
    pub value: Value,
    tree: Tree,
}

/// A file that is not YAML, or too much of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    /// 0: unknown.
    pub line: u64,
    pub message: String,
}

/// All documents of `text`; empty ones are left out.
///
/// # Errors
/// The first place that is not YAML (for `json`: not JSON), or the budget that it breaks.
pub fn read(text: &str, json: bool) -> Result<Vec<Document>, Unreadable> {
    if text.len() > FILE_BYTES_MAX {
        return Err(Unreadable {
            line: 0,
            message: format!(
                "the file has {} bytes; at most {FILE_BYTES_MAX} are read: split it",
                text.len()
            ),
        });
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            // Objects are less than 20 deep; each level is several frames of a 2 MiB stack.
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_documents: 4096,
            max_nodes: 500_000,
            max_events: 1_500_000,
            max_aliases: 2_000,
            max_anchors: 1_000,
            max_total_scalar_bytes: FILE_BYTES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    match serde_saphyr::from_multiple_with_options::<Spanned<Tree>>(text, options) {
        Ok(trees) => Ok(trees.into_iter().map(Document::new).collect()),
        Err(error) if json => match serde_json::from_str::<Value>(text) {
            // JSON that YAML cannot take (tabs as indentation): no lines, but no reason to refuse.
            Ok(value) => Ok(vec![Document { line: 1, value, tree: Tree::Null }]),
            Err(json_error) => Err(Unreadable {
                line: json_error.line() as u64,
                message: format!("not JSON: {json_error}"),
            })
            .map_err(
                |unreadable: Unreadable| if unreadable.line == 0 { of(&error) } else { unreadable },
            ),
        },
        Err(error) => Err(of(&error)),
    }
}

fn of(error: &serde_saphyr::Error) -> Unreadable {
    Unreadable {
        line: error.location().map_or(0, |location| location.line()),
        message: format!("not YAML: {}", error.without_snippet()),
    }
}

impl Document {
    fn new(tree: Spanned<Tree>) -> Self {
        Self { line: tree.referenced.line(), value: tree.value.to_value(), tree: tree.value }
    }

    /// The items of a `List`, each with its own lines.
    pub fn items(&self) -> Vec<Document> {
        let Some(Tree::List(items)) = self.tree.get("items").map(|item| &item.value) else {
            let items = self.value.get("items").and_then(Value::as_array);
            return items
                .into_iter()
                .flatten()
                .map(|value| Document { line: self.line, value: value.clone(), tree: Tree::Null })
                .collect();
        };
        items.iter().cloned().map(Document::new).collect()
    }

    /// The line of `path` (API notation), or of the deepest part of it that is there.
    pub fn line_of(&self, path: &str) -> u64 {
        let mut tree = &self.tree;
        let mut line = self.line;
        let mut rest = path;
        while let Some((next, after)) = tree.step(rest) {
            line = next.referenced.line();
            if let Tree::Map(entries) = tree
                && let Some((key, _)) = entries.iter().find(|(_, value)| std::ptr::eq(value, next))
            {
                line = key.referenced.line();
            }
            tree = &next.value;
            rest = after;
        }
        if line == 0 { self.line } else { line }
    }
}

/// A YAML value that remembers lines.
#[derive(Clone, Debug)]
enum Tree {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Spanned<Tree>>),
    Map(Vec<(Spanned<String>, Spanned<Tree>)>),
}

impl Tree {
    fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(value) => Value::Number(value.clone()),
            Self::Text(value) => Value::String(value.clone()),
            Self::List(items) => items.iter().map(|item| item.value.to_value()).collect(),
            Self::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, value)| (key.value.clone(), value.value.to_value()))
                    .collect(),
            ),
        }
    }

    fn get(&self, key: &str) -> Option<&Spanned<Tree>> {
        match self {
            Self::Map(entries) => {
                entries.iter().find(|(name, _)| name.value == key).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    /// One step along `path`; keys may hold dots, so the longest key that fits wins.
    fn step<'p>(&self, path: &'p str) -> Option<(&Spanned<Tree>, &'p str)> {
        let path = path.strip_prefix('.').unwrap_or(path);
        match self {
            Self::List(items) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                Some((items.get(index.parse::<usize>().ok()?)?, rest))
            }
            Self::Map(entries) => {
                if let Some((key, rest)) = path.strip_prefix('[').and_then(|p| p.split_once(']')) {
                    return Some((self.get(key)?, rest));
                }
                entries
                    .iter()
                    .filter_map(|(key, value)| {
                        let rest = path.strip_prefix(key.value.as_str())?;
                        let whole = rest.is_empty() || rest.starts_with(['.', '[']);
                        (whole && !key.value.is_empty()).then_some((value, rest))
                    })
                    .min_by_key(|(_, rest)| rest.len())
            }
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        // Infinity and NaN are no JSON numbers; the text then fails as the wrong type.
        Ok(serde_json::Number::from_f64(value)
            .map_or_else(|| Tree::Text(value.to_string()), Tree::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f65_lines_of_fields_survive_keys_with_dots_and_lists() {
        let text = "---\nkind: Pod\nmetadata:\n  labels:\n    a.b/c: x\n    a: y\n---\nspec:\n  list:\n  - one\n  - name: two\n    port: 0644\n";
        let documents = read(text, false).unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[0].line, 2);
        assert_eq!(documents[0].line_of("metadata.labels.a.b/c"), 5);
        assert_eq!(documents[0].line_of("metadata.labels[a]"), 6);
        assert_eq!(documents[1].line_of("spec.list[1].port"), 12);
        assert_eq!(documents[1].line_of("spec.list[1].absent.deeper"), 11);
        assert_eq!(documents[1].value["spec"]["list"][1]["port"], 420);
    }

    #[test]
    fn cve26_bombs_and_depth_are_refused() {
        let mut bomb = String::from("a: &a [x,x,x,x,x,x,x,x,x,x]\n");
        let mut last = "a".to_owned();
        for name in ["b", "c", "d", "e", "f", "g", "h", "i"] {
            let uses = vec![format!("*{last}"); 10].join(",");
            bomb.push_str(&format!("{name}: &{name} [{uses}]\n"));
            last = name.to_owned();
        }
        assert!(read(&bomb, false).is_err());
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(read(&nested(DEPTH_MAX), false).is_ok());
        assert!(read(&nested(10_000), false).is_err());
        assert!(read(&"[".repeat(10_000), false).is_err());
        assert!(read(&"{\"a\":".repeat(10_000), true).is_err());
        assert!(
            read(&" ".repeat(FILE_BYTES_MAX + 1), false).unwrap_err().message.contains("split")
        );
    }

    #[test]
    fn f67_a_half_written_file_names_its_line() {
        let error = read("kind: Pod\nmetadata:\n  name: \"x\n", false).unwrap_err();
        assert!(error.line >= 3, "{error:?}");
        assert!(read("kind: Pod\nkind: Pod\n", false).is_err());
    }

    #[test]
    fn f65_json_with_tabs_is_json() {
        let documents = read("{\n\t\"kind\": \"Pod\",\n\t\"n\": 1\n}\n", true).unwrap();
        assert_eq!(documents[0].value["n"], 1);
    }
}
