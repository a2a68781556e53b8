//! As much of Rust's grammar as the rules need: comments, literals, words, test modules.

/// A word of the code or a punctuation mark, with its line (from 1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token<'a> {
    pub text: &'a str,
    pub line: usize,
    /// Byte offset of its first character.
    pub at: usize,
}

/// Comments and the contents of literals become spaces; everything else stays where it is.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' if !word_before(bytes, at) => match raw_string_end(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            b'\'' => match char_end(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    // Whole characters were replaced, byte by byte, so this loses nothing.
    String::from_utf8_lossy(&out).into_owned()
}

fn word_before(bytes: &[u8], at: usize) -> bool {
    // `br"…"` is a raw string too; `for"` does not exist.
    let Some(before) = at.checked_sub(1).map(|before| bytes[before]) else { return false };
    is_word(before) && !(before == b'b' && (at < 2 || !is_word(bytes[at - 2])))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
}

fn comment_end(bytes: &[u8], at: usize) -> usize {
    let (mut depth, mut at) = (0, at);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    let start = at + 1 + hashes;
    if bytes.get(start) != Some(&b'"') {
        return None;
    }
    let close = [b"\"" as &[u8], &b"#".repeat(hashes)].concat();
    let length = bytes[start + 1..].windows(close.len()).position(|window| window == close);
    Some(length.map_or(bytes.len(), |length| start + 1 + length + close.len()))
}

/// `None`: a lifetime.
fn char_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        let close = bytes[at + 3..].iter().position(|byte| *byte == b'\'')?;
        return Some(at + 3 + close + 1);
    }
    // One character of up to four bytes.
    let close = bytes[at + 1..].iter().take(5).skip(1).position(|byte| *byte == b'\'')?;
    let single = close == 0 || !bytes[at + 1].is_ascii();
    single.then_some(at + 1 + close + 2)
}

/// The words and marks of blanked code; `::` is one mark.
pub fn tokens(code: &str) -> Vec<Token<'_>> {
    let bytes = code.as_bytes();
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            b'\n' => line += 1,
            byte if is_word(byte) => {
                while at < bytes.len() && is_word(bytes[at]) {
                    at += 1;
                }
                found.push(Token { text: &code[start..at], line, at: start });
                continue;
            }
            b':' if bytes.get(at + 1) == Some(&b':') => {
                found.push(Token { text: "::", line, at });
                at += 2;
                continue;
            }
            byte if byte.is_ascii() && !byte.is_ascii_whitespace() => {
                found.push(Token { text: &code[at..=at], line, at });
            }
            _ => {}
        }
        at += 1;
    }
    found
}

const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

/// Blanks `#[cfg(test)] mod x { … }`.
pub fn blank_test_modules(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    for (start, end, _) in test_modules(code) {
        for byte in &mut out[start..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Names in `#[cfg(test)] mod x;`.
pub fn test_module_files(code: &str) -> Vec<String> {
    test_modules(code).into_iter().filter_map(|(_, _, file)| file).collect()
}

/// Start, end and, for one without a body, the name.
fn test_modules(code: &str) -> Vec<(usize, usize, Option<String>)> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut index = 0;
    while index + CFG_TEST.len() < tokens.len() {
        let here = &tokens[index..];
        if !here.iter().zip(CFG_TEST).all(|(token, wanted)| token.text == wanted) {
            index += 1;
            continue;
        }
        // Other attributes and `pub(crate)` may stand before `mod`.
        let item =
            here.iter().position(|token| matches!(token.text, "mod" | "fn" | "use" | "impl"));
        let Some(item) = item.filter(|item| here[*item].text == "mod") else {
            index += 1;
            continue;
        };
        let name = here.get(item + 1).map(|token| token.text.to_owned());
        let body = here.get(item + 2).map(|token| token.text);
        let start = here[0].at;
        if body == Some(";") {
            found.push((start, here[item + 2].at + 1, name));
            index += item + 2;
            continue;
        }
        let mut depth = 0;
        let close = here[item + 2..].iter().position(|token| {
            match token.text {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        let length = close.map_or(here.len() - 1, |close| item + 2 + close);
        found.push((start, here[length].at + 1, None));
        index += length + 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank() {
        let code = "let a = \"unsafe \\\" x\"; // unsafe\n/* unsafe /* */ */ let b = r#\"unsafe\"#; let c = '\"'; fn f<'a>() {} 'é'";
        let blanked = blank(code);
        assert!(!blanked.contains("unsafe"), "{blanked}");
        assert!(blanked.contains("fn f<'a>() {}"), "{blanked}");
        assert_eq!(blanked.lines().count(), code.lines().count());
    }

    #[test]
    fn test_modules_are_cut_at_their_brace() {
        let code = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { { } } }\nfn c() {}\n";
        let product = blank_test_modules(code);
        assert!(product.contains("fn a") && product.contains("fn c") && !product.contains("fn b"));
    }
}
