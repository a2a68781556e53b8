//! `$(NAME)` in values, commands and arguments (A121).

/// Replaces `$(NAME)` by what `lookup` has, `$$` by `$`, and leaves the rest, unknown names too.
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(next) = tail.strip_prefix('$') {
            out.push('$');
            rest = next;
        } else if let Some((name, next)) =
            tail.strip_prefix('(').and_then(|inner| inner.split_once(')'))
        {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = next;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a121_expansion() {
        let lookup = |name: &str| (name == "A").then(|| "x$(B)".to_owned());
        for (text, expect) in [
            ("", ""),
            ("plain", "plain"),
            ("$(A)", "x$(B)"),
            ("a$(A)b$(A)", "ax$(B)bx$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$x$(B)"),
            ("$(NONE)", "$(NONE)"),
            ("$(A", "$(A"),
            ("$A $", "$A $"),
            ("$()", "$()"),
        ] {
            assert_eq!(expand(text, &lookup), expect, "{text}");
        }
    }
}
