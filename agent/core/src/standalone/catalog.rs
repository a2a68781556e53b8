//! The last good version of every object of the directory.
//!
//! A file that cannot be read holds all that came from it; an object that is refused holds its own
//! last version; one name in two files stays with the file that had it first.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::manifest::{Located, Manifest, Object, Parsed};
use crate::model::{Kind, ObjectKey, Problem, Severity};

/// Identity of an object in the directory.
pub type Identity = (Kind, ObjectKey);

/// What the directory says, with memory.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Catalog {
    files: BTreeMap<String, FileEntry>,
    /// Which file an object is taken from.
    owners: BTreeMap<Identity, String>,
}

#[derive(Clone, PartialEq, Debug, Default)]
struct FileEntry {
    manifests: Vec<Manifest>,
    problems: Vec<Located>,
}

impl Catalog {
    /// Takes a new version of `file`. What it refuses stays as it was.
    pub fn set(&mut self, file: &str, parsed: Parsed) {
        let entry = self.files.entry(file.to_owned()).or_default();
        let mut manifests = parsed.manifests;
        for old in std::mem::take(&mut entry.manifests) {
            let (kind, key) = identity(&old);
            let there = manifests.iter().any(|new| identity(new) == (kind, key.clone()));
            let refused = parsed.refused.iter().any(|(refused, name)| {
                *name == key && refused.is_none_or(|refused| refused == kind)
            });
            if !there && (refused || !parsed.complete) {
                manifests.push(old);
            }
        }
        *entry = FileEntry { manifests, problems: parsed.problems };
    }

    /// The file is gone, and with it what it said.
    pub fn remove(&mut self, file: &str) {
        self.files.remove(file);
    }

    /// True when `file` said something in `before` that it no longer says.
    pub fn loses(&self, before: &Catalog, file: &str) -> bool {
        let names = |catalog: &Catalog| -> BTreeSet<Identity> {
            catalog
                .files
                .get(file)
                .into_iter()
                .flat_map(|entry| entry.manifests.iter().map(identity))
                .collect()
        };
        !names(before).is_subset(&names(self))
    }

    /// Names of the files that are known.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Decides which file an object is taken from. To be called when all changes of one pass are in:
    /// the answer does not depend on the order of [`Catalog::set`].
    pub fn settle(&mut self) -> BTreeMap<Identity, Manifest> {
        let mut found: BTreeMap<Identity, Vec<&Manifest>> = BTreeMap::new();
        for manifest in self.files.values().flat_map(|entry| &entry.manifests) {
            found.entry(identity(manifest)).or_default().push(manifest);
        }
        let mut owners = BTreeMap::new();
        let mut settled = BTreeMap::new();
        for (identity, candidates) in found {
            let owner = self.owners.get(&identity);
            // Candidates are in the order of file names and of lines.
            let Some(chosen) = candidates
                .iter()
                .find(|manifest| owner.is_some_and(|owner| *owner == manifest.file))
                .or(candidates.first())
            else {
                continue;
            };
            owners.insert(identity.clone(), chosen.file.clone());
            settled.insert(identity, (*chosen).clone());
        }
        self.owners = owners;
        settled
    }

    /// Problems of the files, and names that are there more than once. After [`Catalog::settle`].
    pub fn problems(&self) -> Vec<Located> {
        let mut problems: Vec<Located> =
            self.files.values().flat_map(|entry| entry.problems.iter().cloned()).collect();
        let mut used: BTreeMap<Identity, &Manifest> = BTreeMap::new();
        for (identity, owner) in &self.owners {
            let entry = self.files.get(owner);
            let manifests = entry.iter().flat_map(|entry| &entry.manifests);
            if let Some(manifest) = manifests.into_iter().find(|m| self::identity(m) == *identity) {
                used.insert(identity.clone(), manifest);
            }
        }
        for manifest in self.files.values().flat_map(|entry| &entry.manifests) {
            let identity = self::identity(manifest);
            let Some(chosen) =
                used.get(&identity).filter(|chosen| !std::ptr::eq(**chosen, manifest))
            else {
                continue;
            };
            problems.push(manifest.problem(Problem {
                kind: identity.0,
                key: identity.1,
                severity: Severity::Error,
                reason: "DuplicateName",
                field: "metadata.name".to_owned(),
                message: format!(
                    "is in {}:{} already, which stays in use; rename or remove one of them",
                    chosen.file, chosen.line
                ),
            }));
        }
        problems.sort();
        problems
    }

    /// What may be written to disk: everything but Secrets.
    pub(super) fn to_stored(&self) -> StoredCatalog {
        let manifests = self.files.values().flat_map(|entry| entry.manifests.iter());
        StoredCatalog {
            manifests: manifests
                .filter(|m| !matches!(m.object, Object::Secret(_)))
                .cloned()
                .collect(),
        }
    }

    pub(super) fn from_stored(stored: StoredCatalog) -> Self {
        let mut catalog = Self::default();
        for manifest in stored.manifests {
            let entry = catalog.files.entry(manifest.file.clone()).or_default();
            entry.manifests.push(manifest);
        }
        catalog.settle();
        catalog
    }
}

/// [`Catalog`] in the checkpoint.
#[derive(Serialize, Deserialize, Default)]
pub(super) struct StoredCatalog {
    manifests: Vec<Manifest>,
}

fn identity(manifest: &Manifest) -> Identity {
    (manifest.object.kind(), manifest.object.key())
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    fn config(name: &str, value: &str) -> String {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  k: {value}\n---\n"
        )
    }

    fn values(catalog: &mut Catalog) -> Vec<String> {
        let settled = catalog.settle();
        let value = |m: &Manifest| match &m.object {
            Object::ConfigMap(object) => {
                let data = object.data.as_ref().and_then(|data| data.get("k").cloned());
                format!("{}={}", m.object.key(), data.unwrap_or_default())
            }
            _ => m.object.key().to_string(),
        };
        settled.values().map(value).collect()
    }

    #[test]
    fn f67_a_broken_file_keeps_its_last_good_objects() {
        let mut catalog = Catalog::default();
        let good = config("a", "one") + &config("b", "one");
        catalog.set("f.yaml", parse("f.yaml", &good));
        assert_eq!(values(&mut catalog), ["default/a=one", "default/b=one"]);
        for broken in ["data: [", "apiVersion: v1\nkind: ConfigMap\n", "text"] {
            catalog.set("f.yaml", parse("f.yaml", broken));
            assert_eq!(values(&mut catalog), ["default/a=one", "default/b=one"], "{broken}");
            assert_eq!(catalog.problems().len(), 1, "{broken}");
        }
        // A refused object holds itself only; one that is gone is gone.
        catalog.set(
            "f.yaml",
            parse("f.yaml", "apiVersion: v1\nkind: ConfigMp\nmetadata:\n  name: a\n"),
        );
        assert_eq!(values(&mut catalog), ["default/a=one"]);
        catalog.set("f.yaml", parse("f.yaml", &config("a", "two")));
        assert_eq!(values(&mut catalog), ["default/a=two"]);
        assert_eq!(catalog.problems(), []);
        catalog.remove("f.yaml");
        assert_eq!(values(&mut catalog), [""; 0]);
    }

    #[test]
    fn f67_one_name_in_two_files_stays_where_it_was() {
        let mut catalog = Catalog::default();
        catalog.set("m.yaml", parse("m.yaml", &config("a", "m")));
        assert_eq!(values(&mut catalog), ["default/a=m"]);
        catalog.set("b.yaml", parse("b.yaml", &config("a", "b")));
        assert_eq!(values(&mut catalog), ["default/a=m"]);
        let problems = catalog.problems();
        assert_eq!(
            problems[0].to_string(),
            "b.yaml:1: ConfigMap default/a: metadata.name: is in m.yaml:1 already, which stays in use; rename or remove one of them"
        );
        catalog.remove("m.yaml");
        assert_eq!(values(&mut catalog), ["default/a=b"]);
        assert_eq!(catalog.problems(), []);
    }

    #[test]
    fn f67_which_duplicate_wins_does_not_depend_on_the_order_of_reading() {
        let read = |order: &[&str]| {
            let mut catalog = Catalog::default();
            for file in order {
                catalog.set(file, parse(file, &(config("a", file) + &config("a", "second"))));
            }
            (values(&mut catalog), catalog.problems())
        };
        assert_eq!(read(&["x.yaml", "y.yaml"]), read(&["y.yaml", "x.yaml"]));
        assert_eq!(read(&["x.yaml"]).0, ["default/a=x.yaml"]);
        assert_eq!(read(&["x.yaml", "y.yaml"]).1.len(), 3);
    }
}
