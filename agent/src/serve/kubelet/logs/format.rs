//! The lines of a container's log (CRI: `<time> <stream> <tags> <text>`) and what of them is shown
//! (A183).

use jiff::Timestamp;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One line of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line<'a> {
    /// RFC 3339, with as many digits as the runtime wrote.
    pub time: &'a str,
    pub stream: Stream,
    /// The runtime cut the container's line here.
    pub partial: bool,
    /// Any bytes.
    pub text: &'a [u8],
}

/// `None`: not a line of this format.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // More tags may follow the first, after colons.
    let partial = match parts.next()?.split(|byte| *byte == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Line { time, stream, partial, text: parts.next()? })
}

/// What of the log is wanted, and how far it came.
#[derive(Clone, Debug)]
pub struct Renderer {
    pub timestamps: bool,
    pub since: Option<Timestamp>,
    /// `None`: both.
    pub stream: Option<Stream>,
    /// Bytes that may still be shown.
    pub left: Option<u64>,
    /// Lines of the file that may still be looked at.
    lines_left: Option<u64>,
    at_line_start: bool,
}

impl Renderer {
    pub fn new(
        timestamps: bool,
        since: Option<Timestamp>,
        stream: Option<Stream>,
        left: Option<u64>,
    ) -> Self {
        Self { timestamps, since, stream, left, lines_left: None, at_line_start: true }
    }

    /// No more than so many lines of the file, shown or not.
    pub fn lines(self, lines_left: Option<u64>) -> Self {
        Self { lines_left, ..self }
    }

    /// A limit is reached.
    pub fn is_full(&self) -> bool {
        self.left == Some(0) || self.lines_left == Some(0)
    }

    /// Appends what is to be shown of one line of the file, which is given without its newline.
    /// `whole`: it had one. Lines that are none of a log are left out.
    pub fn push(&mut self, line: &[u8], whole: bool, out: &mut Vec<u8>) {
        let Some(line) = parse(line) else {
            if !line.is_empty() {
                tracing::debug!("a line of a container's log has not the form of CRI");
            }
            return;
        };
        if let Some(lines) = &mut self.lines_left {
            *lines = lines.saturating_sub(1);
        }
        if self.stream.is_some_and(|stream| stream != line.stream) {
            return;
        }
        if let Some(since) = self.since {
            match line.time.parse::<Timestamp>() {
                Ok(at) if at >= since => {}
                _ => return,
            }
        }
        let start = out.len();
        if self.timestamps && self.at_line_start {
            out.extend_from_slice(fixed(line.time).as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        self.at_line_start = whole && !line.partial;
        if self.at_line_start {
            out.push(b'\n');
        }
        if let Some(left) = &mut self.left {
            let room = usize::try_from(*left).unwrap_or(usize::MAX);
            out.truncate(start.saturating_add(room));
            *left = left.saturating_sub((out.len() - start) as u64);
        }
    }
}

/// With nine digits after the point: times of one width, as the kubelet prints them.
fn fixed(time: &str) -> String {
    let Some(zone) = time.char_indices().skip(19).find(|(_, c)| matches!(c, 'Z' | '+' | '-'))
    else {
        return time.to_owned();
    };
    let (clock, zone) = time.split_at(zone.0);
    let (seconds, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    format!("{seconds}.{fraction:0<9}{zone}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: &str = "2026-11-20T10:00:00.5Z";

    fn render(mut renderer: Renderer, lines: &[&str]) -> String {
        let mut out = Vec::new();
        for line in lines {
            renderer.push(line.as_bytes(), true, &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    fn plain() -> Renderer {
        Renderer::new(false, None, None, None)
    }

    #[test]
    fn a183_a_line_has_time_stream_tags_and_any_text() {
        let line = parse(b"2026-11-20T10:00:00.5Z stdout F hello  world ").unwrap();
        assert_eq!((line.time, line.stream, line.partial), (T, Stream::Stdout, false));
        assert_eq!(line.text, b"hello  world ");
        assert_eq!(parse(b"t stderr P:x \xff\xfe").unwrap().text, b"\xff\xfe");
        assert_eq!(parse(b"t stdout F ").unwrap().text, b"");
        for bad in
            ["", "t", "t stdout", "t stdout F", "t stdin F x", "t stdout X x", "\u{feff} a b"]
        {
            assert!(parse(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a183_parts_of_a_line_are_joined_and_get_one_timestamp() {
        let lines = ["t stdout P ab", "t stdout P cd", "t stdout F ef", "t stdout F "];
        assert_eq!(render(plain(), &lines), "abcdef\n\n");
        let lines = [&format!("{T} stdout P ab"), &format!("{T} stdout F cd"), "t stdout F x"];
        let stamped = render(Renderer::new(true, None, None, None), &lines.map(|l| l as &str));
        assert_eq!(stamped, "2026-11-20T10:00:00.500000000Z abcd\nt x\n");
    }

    #[test]
    fn a183_timestamps_have_nine_digits_and_keep_their_zone() {
        for (time, want) in [
            ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00.000000000Z"),
            ("2026-11-20T10:00:00.123456789Z", "2026-11-20T10:00:00.123456789Z"),
            ("2026-11-20T10:00:00.12+02:00", "2026-11-20T10:00:00.120000000+02:00"),
            ("2026-11-20T10:00:00-07:00", "2026-11-20T10:00:00.000000000-07:00"),
            ("odd", "odd"),
        ] {
            assert_eq!(fixed(time), want);
        }
    }

    #[test]
    fn a183_since_stream_and_limit_select() {
        let lines = [
            "2026-11-20T10:00:00Z stdout F one",
            "2026-11-20T12:00:01+02:00 stderr F two",
            "2026-11-20T10:00:02Z stdout F three",
        ];
        let since = "2026-11-20T10:00:01Z".parse().unwrap();
        assert_eq!(render(Renderer::new(false, Some(since), None, None), &lines), "two\nthree\n");
        let stderr = Some(Stream::Stderr);
        assert_eq!(render(Renderer::new(false, None, stderr, None), &lines), "two\n");
        assert_eq!(render(Renderer::new(false, None, None, Some(6)), &lines), "one\ntw");
        assert_eq!(render(Renderer::new(false, None, None, Some(4)), &lines), "one\n");
    }

    #[test]
    fn a183_a_last_line_without_its_end_is_shown_as_it_is() {
        let mut out = Vec::new();
        let mut renderer = plain();
        renderer.push(b"t stdout F abc", false, &mut out);
        assert_eq!(out, b"abc");
    }
}
