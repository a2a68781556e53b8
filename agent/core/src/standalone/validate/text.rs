//! Shapes of names. Several of them become path components or shell-visible text.

/// DNS-1123 label: at most 63 of `[a-z0-9-]`, beginning and ending with a letter or digit.
pub fn dns_label(name: &str) -> Result<(), String> {
    let ok = name.len() <= 63 && label_shape(name);
    ok.then_some(()).ok_or_else(|| {
        format!("{name:?} is not a DNS label: at most 63 of a-z, 0-9 and '-', a letter or digit at both ends")
    })
}

/// DNS-1123 subdomain: labels joined by dots, at most 253 characters. No path has this shape but a
/// single component that is neither `.` nor `..` (CVE rows 22 and F65).
pub fn dns_subdomain(name: &str) -> Result<(), String> {
    let ok = name.len() <= 253 && name.split('.').all(label_shape);
    ok.then_some(()).ok_or_else(|| {
        format!("{name:?} is not a DNS name: at most 253 of a-z, 0-9, '-' and '.', a letter or digit at both ends")
    })
}

fn label_shape(label: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    label.starts_with(inner)
        && label.ends_with(inner)
        && label.chars().all(|c| inner(c) || c == '-')
}

/// Key of a ConfigMap or Secret: becomes a file name.
pub fn key_of_data(key: &str) -> Result<(), String> {
    let ok = !key.is_empty()
        && key.len() <= 253
        && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && !key.starts_with("..")
        && key != ".";
    ok.then_some(()).ok_or_else(|| {
        format!("{key:?} is not a key: letters, digits, '-', '_' and '.', not \".\" and not beginning with \"..\"")
    })
}

/// Port name (IANA service name): at most 15 of `[a-z0-9-]` with a letter, no `--`.
pub fn port_name(name: &str) -> Result<(), String> {
    let ok = name.len() <= 15
        && label_shape(name)
        && !name.contains("--")
        && name.chars().any(|c| c.is_ascii_lowercase());
    ok.then_some(()).ok_or_else(|| {
        format!(
            "{name:?} is not a port name: at most 15 of a-z, 0-9 and '-', with at least one letter"
        )
    })
}

/// Key of a label or annotation: `[prefix/]name`.
pub fn qualified_name(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix {
        dns_subdomain(prefix)?;
    }
    value_shape(name)
        .then_some(())
        .filter(|()| !name.is_empty())
        .ok_or_else(|| format!("{key:?} is not a label name such as app or example.com/app"))
}

/// Value of a label; may be empty.
pub fn label_value(value: &str) -> Result<(), String> {
    value_shape(value).then_some(()).ok_or_else(|| {
        format!("{value:?} is not a label value: at most 63 letters, digits, '-', '_' and '.', a letter or digit at both ends")
    })
}

fn value_shape(value: &str) -> bool {
    let end = |c: char| c.is_ascii_alphanumeric();
    value.is_empty()
        || (value.len() <= 63
            && value.starts_with(end)
            && value.ends_with(end)
            && value.chars().all(|c| end(c) || matches!(c, '-' | '_' | '.')))
}

/// Name of an environment variable, as relaxed since 1.34: printable ASCII but `=`.
pub fn env_name(name: &str) -> Result<(), String> {
    let ok = !name.is_empty() && name.chars().all(|c| (' '..='~').contains(&c) && c != '=');
    ok.then_some(()).ok_or_else(|| {
        format!("{name:?} is not a name for a variable: printable ASCII without '='")
    })
}

/// A path below a volume: relative, without `..` and NUL.
pub fn inner_path(path: &str) -> Result<(), String> {
    let ok = !path.starts_with('/')
        && !path.contains(['\0', '\\'])
        && path.split('/').all(|part| part != "..");
    ok.then_some(()).ok_or_else(|| format!("{path:?} must be relative and without \"..\""))
}
