//! Label selectors with one canonical text each, so that equal selectors are one term.
//!
//! Labels of users and Kubernetes' own never share a text: a word outside the label alphabet is
//! quoted, and a namespace that is meant by name stands behind `=`, which no selector begins with
//! (CVE-2023-41333, GHSA-pfhr-pccp-hwmh).

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube_core::{Expression, Selector};

use crate::model::labels::{self, Labels};

/// A parsed label selector. Identity and order are its canonical text.
#[derive(Clone, Debug)]
pub struct PodSelector {
    pub text: String,
    selector: Selector,
    anchor: Option<(String, Vec<String>)>,
}

impl PodSelector {
    pub fn everything() -> Self {
        Self { text: String::new(), selector: Selector::default(), anchor: None }
    }

    /// `Err` lists the requirements that cannot be read, as `(field below the selector, what)`.
    pub fn parse(selector: &LabelSelector) -> Result<Self, Vec<(String, String)>> {
        let (parsed, wrong) = Self::parse_valid_part(selector);
        if wrong.is_empty() { Ok(parsed) } else { Err(wrong) }
    }

    /// The selector without the requirements that cannot be read, and those: it selects at least
    /// what was meant.
    pub fn parse_valid_part(selector: &LabelSelector) -> (Self, Vec<(String, String)>) {
        let mut requirements = Vec::new();
        let mut wrong = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Expression::Equal(key.clone(), value.clone()));
        }
        for (i, requirement) in selector.match_expressions.iter().flatten().enumerate() {
            match expression(requirement) {
                Ok(expression) => requirements.push(expression),
                Err((field, what)) => wrong.push((format!("matchExpressions[{i}].{field}"), what)),
            }
        }
        (Self::of(requirements), wrong)
    }

    fn of(requirements: Vec<Expression>) -> Self {
        let texts: BTreeSet<String> = requirements.iter().map(text).collect();
        let anchor = requirements.iter().find_map(|requirement| match requirement {
            Expression::Equal(key, value) => Some((key.clone(), vec![value.clone()])),
            Expression::In(key, values) => Some((key.clone(), values.iter().cloned().collect())),
            _ => None,
        });
        Self {
            text: texts.into_iter().collect::<Vec<_>>().join(","),
            selector: requirements.into_iter().collect(),
            anchor,
        }
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        labels::matches(&self.selector, labels)
    }

    /// A label that every match has: its key and the values it may have.
    pub fn anchor(&self) -> Option<&(String, Vec<String>)> {
        self.anchor.as_ref()
    }
}

fn expression(
    requirement: &LabelSelectorRequirement,
) -> Result<Expression, (&'static str, String)> {
    let values: BTreeSet<String> = requirement.values.iter().flatten().cloned().collect();
    let key = requirement.key.clone();
    match (requirement.operator.as_str(), values.is_empty()) {
        ("In", false) if values.len() == 1 => {
            Ok(Expression::Equal(key, values.into_iter().next().unwrap_or_default()))
        }
        ("In", false) => Ok(Expression::In(key, values)),
        ("NotIn", false) => Ok(Expression::NotIn(key, values)),
        ("Exists", true) => Ok(Expression::Exists(key)),
        ("DoesNotExist", true) => Ok(Expression::DoesNotExist(key)),
        ("In" | "NotIn", true) => {
            Err(("values", format!("operator {} needs at least one value", requirement.operator)))
        }
        ("Exists" | "DoesNotExist", false) => Err((
            "values",
            format!("operator {} takes no values; remove them", requirement.operator),
        )),
        (other, _) => Err((
            "operator",
            format!("{other:?} is not an operator; use In, NotIn, Exists or DoesNotExist"),
        )),
    }
}

fn text(expression: &Expression) -> String {
    let list = |values: &BTreeSet<String>| {
        values.iter().map(|value| word(value)).collect::<Vec<_>>().join(",")
    };
    match expression {
        Expression::Equal(key, value) => format!("{}={}", word(key), word(value)),
        Expression::NotEqual(key, value) => format!("{}!={}", word(key), word(value)),
        Expression::In(key, values) => format!("{} in ({})", word(key), list(values)),
        Expression::NotIn(key, values) => format!("{} notin ({})", word(key), list(values)),
        Expression::Exists(key) => word(key),
        Expression::DoesNotExist(key) => format!("!{}", word(key)),
    }
}

/// `text` itself if it is made of the characters of labels, else quoted.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("{text:?}") }
}

/// In which namespaces a peer's pods are.
#[derive(Clone, Debug)]
pub enum Namespaces {
    /// The policy's own.
    Named(Arc<str>),
    Selected(PodSelector),
}

/// Pods by namespace and labels. Identity and order are the two canonical texts.
#[derive(Clone, Debug)]
pub struct Selection {
    pub namespaces: Namespaces,
    pub pods: PodSelector,
    key: SelectionKey,
}

/// Canonical texts of the namespaces and the pods: what a term is named by.
pub type SelectionKey = (String, String);

impl Selection {
    pub fn new(namespaces: Namespaces, pods: PodSelector) -> Self {
        let of_namespaces = match &namespaces {
            Namespaces::Named(name) => format!("={}", word(name)),
            Namespaces::Selected(selector) => selector.text.clone(),
        };
        let key = (of_namespaces, pods.text.clone());
        Self { namespaces, pods, key }
    }

    pub fn key(&self) -> &SelectionKey {
        &self.key
    }

    pub fn in_namespace(&self, name: &str, labels: &Labels) -> bool {
        match &self.namespaces {
            Namespaces::Named(own) => &**own == name,
            Namespaces::Selected(selector) => selector.matches(labels),
        }
    }
}

impl PartialEq for Selection {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Selection {}

impl PartialOrd for Selection {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Selection {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}
