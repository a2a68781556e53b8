//! Reads one container's log from where it is wanted, and goes on where it grows (A183).
//!
//! Polls: a follower looks for new bytes ten times a second, and twice a second for a new file of
//! the same name (rotation). No notification of the kernel is needed, and none can be missed.

use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use hyper::body::Bytes;
use tokio::io::AsyncReadExt as _;

use super::format::Renderer;
use crate::observe::logs::open;
use crate::supervise::Scope;

/// Read at once.
const CHUNK: usize = 64 << 10;
/// A longer line is not the runtime's (it cuts at 16 KiB): it is skipped.
const LINE_MAX: usize = 1 << 20;
const POLL: Duration = Duration::from_millis(100);
/// Polls between two looks at the name.
const POLLS_A_LOOK: u32 = 5;

/// Where the log is.
#[derive(Clone)]
pub struct Place {
    pub root: PathBuf,
    /// Below `root`.
    pub path: PathBuf,
}

/// Whether the container still writes; asked before each pause.
pub type Writes = Box<dyn Fn() -> bool + Send + Sync>;

pub struct Reader {
    place: Place,
    scope: Scope,
    file: tokio::fs::File,
    /// Device and inode of `file`.
    identity: (u64, u64),
    /// What took the file's name meanwhile: read when `file` is at its end.
    next: Option<(tokio::fs::File, (u64, u64))>,
    /// Bytes of a line whose end did not come yet.
    rest: Vec<u8>,
    /// The rest of a line that is too long is not looked at.
    skipping: bool,
    renderer: Renderer,
    /// `None`: the log is read to its end.
    follow: Option<Writes>,
    idle: u32,
    /// The container has ended: what is there is read, and no more.
    last_round: bool,
    ended: bool,
}

fn opened(place: &Place, tail_lines: Option<u64>) -> io::Result<(std::fs::File, (u64, u64))> {
    let mut file = open(&place.root, &place.path)?;
    if let Some(lines) = tail_lines {
        let start = tail_start(&mut file, lines)?;
        file.seek(SeekFrom::Start(start))?;
    }
    let metadata = file.metadata()?;
    Ok((file, (metadata.dev(), metadata.ino())))
}

async fn open_async(
    scope: &Scope,
    place: Place,
    tail_lines: Option<u64>,
) -> io::Result<(tokio::fs::File, (u64, u64))> {
    let found = scope.blocking(move || opened(&place, tail_lines)).await;
    let (file, identity) = found.map_err(io::Error::other)??;
    Ok((tokio::fs::File::from_std(file), identity))
}

impl Reader {
    /// # Errors
    /// The log cannot be opened.
    pub async fn open(
        scope: Scope,
        place: Place,
        tail_lines: Option<u64>,
        renderer: Renderer,
        follow: Option<Writes>,
    ) -> io::Result<Self> {
        let (file, identity) = open_async(&scope, place.clone(), tail_lines).await?;
        Ok(Self {
            place,
            scope,
            file,
            identity,
            next: None,
            rest: Vec::new(),
            skipping: false,
            renderer,
            follow,
            idle: 0,
            last_round: false,
            ended: false,
        })
    }

    /// What is to be shown next; `None`: that was all.
    ///
    /// # Errors
    /// The file cannot be read any more.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut chunk = vec![0; CHUNK];
        while !self.ended && !self.renderer.is_full() {
            let n = self.file.read(&mut chunk).await?;
            let mut out = Vec::new();
            if n > 0 {
                self.idle = 0;
                self.take(&chunk[..n], &mut out);
            } else {
                self.at_end(&mut out).await;
            }
            if !out.is_empty() {
                return Ok(Some(Bytes::from(out)));
            }
        }
        Ok(None)
    }

    fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            if !std::mem::take(&mut self.skipping) {
                self.rest.extend_from_slice(&bytes[..end]);
                if !self.renderer.is_full() {
                    self.renderer.push(&self.rest, true, out);
                }
            }
            self.rest.clear();
            bytes = &bytes[end + 1..];
        }
        if !self.skipping {
            self.rest.extend_from_slice(bytes);
        }
        if self.rest.len() > LINE_MAX {
            self.rest = Vec::new();
            self.skipping = true;
        }
    }

    /// The file has no more bytes for now.
    async fn at_end(&mut self, out: &mut Vec<u8>) {
        if let Some((file, identity)) = self.next.take() {
            self.flush(out);
            (self.file, self.identity) = (file, identity);
            return;
        }
        let Some(writes) = &self.follow else {
            self.flush(out);
            self.ended = true;
            return;
        };
        if self.last_round {
            self.flush(out);
            self.ended = true;
            return;
        }
        if !writes() {
            // Its last words may have come after the read above; a rotated file too.
            self.last_round = true;
            self.look().await;
            return;
        }
        self.idle += 1;
        if self.idle.is_multiple_of(POLLS_A_LOOK) {
            self.look().await;
        }
        tokio::time::sleep(POLL).await;
    }

    /// Is another file under the name? A name that is gone for a moment is no news.
    async fn look(&mut self) {
        if let Ok((file, identity)) = open_async(&self.scope, self.place.clone(), None).await
            && identity != self.identity
        {
            self.next = Some((file, identity));
        }
    }

    /// A line without its end, at the end of all.
    fn flush(&mut self, out: &mut Vec<u8>) {
        if !self.rest.is_empty() && !self.renderer.is_full() {
            self.renderer.push(&self.rest, false, out);
        }
        self.rest.clear();
        self.skipping = false;
    }
}

/// Where the last `lines` lines of the file begin. A line without its end counts as one.
pub fn tail_start(file: &mut (impl Read + Seek), lines: u64) -> io::Result<u64> {
    let length = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(length);
    }
    let (mut left, mut end) = (lines, length);
    let mut block = vec![0; CHUNK];
    while end > 0 {
        let start = end.saturating_sub(CHUNK as u64);
        let size = usize::try_from(end - start).unwrap_or(CHUNK);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..size])?;
        for (index, byte) in block[..size].iter().enumerate().rev() {
            let at = start + index as u64;
            // The newline at the very end ends the last line, and begins none.
            if *byte == b'\n' && at + 1 < length {
                left -= 1;
                if left == 0 {
                    return Ok(at + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write as _};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::supervise::Supervisor;

    #[test]
    fn a183_the_last_lines_are_found_from_the_end() {
        let check = |text: &str, lines: u64, want: &str| {
            let start = tail_start(&mut Cursor::new(text.as_bytes()), lines).unwrap();
            assert_eq!(&text[usize::try_from(start).unwrap()..], want, "{text:?} {lines}");
        };
        check("a\nb\nc\n", 1, "c\n");
        check("a\nb\nc\n", 2, "b\nc\n");
        check("a\nb\nc\n", 3, "a\nb\nc\n");
        check("a\nb\nc\n", 9, "a\nb\nc\n");
        check("a\nb\nc\n", 0, "");
        check("a\nb\nc", 1, "c");
        check("", 5, "");
        check("\n\n\n", 2, "\n\n");
        let long: String = (0..40_000).map(|n| format!("line {n}\n")).collect();
        check(&long, 1, "line 39999\n");
        let start = tail_start(&mut Cursor::new(long.as_bytes()), 30_000).unwrap();
        assert!(long[usize::try_from(start).unwrap()..].starts_with("line 10000\n"));
    }

    fn place(name: &str) -> Place {
        let root =
            std::env::temp_dir().join(format!("longshore-read-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(&root).unwrap();
        Place { root, path: "0.log".into() }
    }

    fn line(text: &str) -> String {
        format!("2026-11-20T10:00:00Z stdout F {text}\n")
    }

    async fn all(reader: &mut Reader) -> String {
        let mut text = Vec::new();
        while let Some(bytes) = reader.next().await.unwrap() {
            text.extend_from_slice(&bytes);
        }
        String::from_utf8(text).unwrap()
    }

    fn plain(limit: Option<u64>) -> Renderer {
        Renderer::new(false, None, None, limit)
    }

    #[tokio::test]
    async fn a183_a_log_is_read_to_its_end_limit_or_from_its_tail() {
        let supervisor = Supervisor::default();
        let place = place("whole");
        let file = place.root.join("0.log");
        let huge = "x".repeat(LINE_MAX * 2);
        let text = line("one") + "no log line\n" + &huge + "\n" + &line("two") + "t stdout F rest";
        std::fs::write(&file, text).unwrap();
        for (tail, limit, want) in [
            (None, None, "one\ntwo\nrest"),
            (Some(2), None, "two\nrest"),
            (None, Some(5), "one\nt"),
            (Some(0), None, ""),
        ] {
            let mut reader =
                Reader::open(supervisor.scope(), place.clone(), tail, plain(limit), None)
                    .await
                    .unwrap();
            assert_eq!(all(&mut reader).await, want, "{tail:?} {limit:?}");
        }
        std::fs::remove_dir_all(&place.root).unwrap();
    }

    #[tokio::test]
    async fn a183_a_follower_sees_new_lines_a_rotated_file_and_the_last_words() {
        let supervisor = Supervisor::default();
        let place = place("follow");
        let file = place.root.join("0.log");
        std::fs::write(&file, line("old") + &line("one")).unwrap();
        let writes = Arc::new(AtomicBool::new(true));
        let asked = writes.clone();
        let follow: Writes = Box::new(move || asked.load(Ordering::SeqCst));
        let mut reader =
            Reader::open(supervisor.scope(), place.clone(), Some(1), plain(None), Some(follow))
                .await
                .unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap(), "one\n");
        let append = |text: &str| {
            let mut open = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
            open.write_all(text.as_bytes()).unwrap();
        };
        append("2026-11-20T10:00:00Z stdout F tw");
        append("o\n");
        assert_eq!(reader.next().await.unwrap().unwrap(), "two\n");
        append(&line("before rotation"));
        std::fs::rename(&file, place.root.join("0.log.1")).unwrap();
        std::fs::write(&file, line("after rotation")).unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap(), "before rotation\n");
        assert_eq!(reader.next().await.unwrap().unwrap(), "after rotation\n");
        append(&line("last words"));
        writes.store(false, Ordering::SeqCst);
        assert_eq!(all(&mut reader).await, "last words\n");
        std::fs::remove_dir_all(&place.root).unwrap();
    }
}
