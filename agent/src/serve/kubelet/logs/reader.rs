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
use tokio::sync::Semaphore;

use super::format::Renderer;
use crate::observe::logs::open;
use crate::supervise::Scope;

/// Read at once.
const CHUNK: usize = 64 << 10;
/// A longer line is not the runtime's (it cuts at 16 KiB): it is skipped.
const LINE_MAX: usize = 1 << 20;
const POLL: Duration = Duration::from_millis(100);
/// Searched for the beginning of a tail at a time: between two such steps others have their turn,
/// and a caller that went away is noticed.
const STEP: u64 = 16 << 20;
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

type Opened = (std::fs::File, (u64, u64));

fn opened(place: &Place) -> io::Result<Opened> {
    let file = open(&place.root, &place.path)?;
    let metadata = file.metadata()?;
    Ok((file, (metadata.dev(), metadata.ino())))
}

async fn open_async(scope: &Scope, place: Place) -> io::Result<Opened> {
    scope.blocking(move || opened(&place)).await.map_err(io::Error::other)?
}

/// Puts `file` where its last `lines` lines begin. `turns`: few search at once, because a search
/// may read all of a large file, and pods' own work on the disk has the same threads.
async fn seek_tail(
    scope: &Scope,
    turns: &Semaphore,
    mut file: std::fs::File,
    lines: u64,
) -> io::Result<std::fs::File> {
    let mut tail = Tail::new(&mut file, lines)?;
    loop {
        let _turn = turns.acquire().await.map_err(io::Error::other)?;
        let step = scope.blocking(move || {
            let start = tail.step(&mut file, STEP)?;
            if let Some(start) = start {
                file.seek(SeekFrom::Start(start))?;
            }
            io::Result::Ok((tail, file, start.is_some()))
        });
        let (searched, at, found) = step.await.map_err(io::Error::other)??;
        if found {
            return Ok(at);
        }
        (tail, file) = (searched, at);
    }
}

impl Reader {
    /// # Errors
    /// The log cannot be opened.
    pub async fn open(
        scope: Scope,
        turns: &Semaphore,
        place: Place,
        tail_lines: Option<u64>,
        renderer: Renderer,
        follow: Option<Writes>,
    ) -> io::Result<Self> {
        let (mut file, identity) = open_async(&scope, place.clone()).await?;
        if let Some(lines) = tail_lines {
            file = seek_tail(&scope, turns, file, lines).await?;
        }
        // What is written from now on is not of the tail, unless it is followed.
        let renderer = renderer.lines(tail_lines.filter(|_| follow.is_none()));
        let file = tokio::fs::File::from_std(file);
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
        if let Ok((file, identity)) = open_async(&self.scope, self.place.clone()).await
            && identity != self.identity
        {
            self.next = Some((tokio::fs::File::from_std(file), identity));
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

/// The search for where the last lines of a file begin, from its end. A line without its end counts
/// as one.
struct Tail {
    length: u64,
    /// What is behind it was searched.
    end: u64,
    left: u64,
}

impl Tail {
    fn new(file: &mut impl Seek, lines: u64) -> io::Result<Self> {
        let length = file.seek(SeekFrom::End(0))?;
        Ok(Self { length, end: length, left: lines })
    }

    /// Searches about so many bytes more. `None`: not found yet.
    fn step(&mut self, file: &mut (impl Read + Seek), bytes: u64) -> io::Result<Option<u64>> {
        if self.left == 0 {
            return Ok(Some(self.length));
        }
        let until = self.end.saturating_sub(bytes);
        let mut block = vec![0; CHUNK];
        while self.end > until {
            let start = self.end.saturating_sub(CHUNK as u64);
            let size = usize::try_from(self.end - start).unwrap_or(CHUNK);
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(&mut block[..size])?;
            for (index, byte) in block[..size].iter().enumerate().rev() {
                let at = start + index as u64;
                // The newline at the very end ends the last line, and begins none.
                if *byte == b'\n' && at + 1 < self.length {
                    self.left -= 1;
                    if self.left == 0 {
                        return Ok(Some(at + 1));
                    }
                }
            }
            self.end = start;
        }
        Ok((self.end == 0).then_some(0))
    }
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
        let tail_start = |text: &str, lines: u64, step: u64| {
            let mut file = Cursor::new(text.as_bytes());
            let mut tail = Tail::new(&mut file, lines).unwrap();
            let mut steps = 1;
            loop {
                match tail.step(&mut file, step).unwrap() {
                    Some(start) => return (start, steps),
                    None => steps += 1,
                }
            }
        };
        let check = |text: &str, lines: u64, want: &str| {
            let (start, _) = tail_start(text, lines, STEP);
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
        let (start, steps) = tail_start(&long, 30_000, 100_000);
        assert!(long[usize::try_from(start).unwrap()..].starts_with("line 10000\n"));
        assert_eq!(steps, 3, "a long search has breaks");
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
            let (scope, turns) = (supervisor.scope(), Semaphore::new(1));
            let mut reader =
                Reader::open(scope, &turns, place.clone(), tail, plain(limit), None).await.unwrap();
            assert_eq!(all(&mut reader).await, want, "{tail:?} {limit:?}");
        }
        std::fs::remove_dir_all(&place.root).unwrap();
    }

    #[tokio::test]
    async fn a183_a_tail_that_is_not_followed_ends_after_its_lines() {
        let supervisor = Supervisor::default();
        let place = place("tail");
        let file = place.root.join("0.log");
        std::fs::write(&file, line("one") + &line("two") + "no log line\n" + &line("three"))
            .unwrap();
        let (scope, turns) = (supervisor.scope(), Semaphore::new(1));
        let mut reader =
            Reader::open(scope, &turns, place.clone(), Some(2), plain(None), None).await.unwrap();
        // A container that writes faster than its log is read would have it read for ever.
        let mut open = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
        open.write_all((line("four") + &line("five")).as_bytes()).unwrap();
        assert_eq!(all(&mut reader).await, "three\nfour\n", "two lines of a log, as the kubelet");
        std::fs::remove_dir_all(&place.root).unwrap();
    }

    #[tokio::test]
    async fn f64_a_search_waits_for_its_turn_and_not_with_a_thread() {
        let supervisor = Supervisor::default();
        let place = place("turns");
        std::fs::write(place.root.join("0.log"), line("one")).unwrap();
        let (scope, turns) = (supervisor.scope(), Semaphore::new(0));
        let open = Reader::open(scope.clone(), &turns, place.clone(), Some(1), plain(None), None);
        let mut open = Box::pin(open);
        let waits = tokio::time::timeout(Duration::from_millis(50), &mut open).await;
        assert!(waits.is_err());
        // Without a tail there is no search, and nothing to wait for.
        let whole = Reader::open(scope, &turns, place.clone(), None, plain(None), None).await;
        assert_eq!(all(&mut whole.unwrap()).await, "one\n");
        turns.add_permits(1);
        assert_eq!(all(&mut open.await.unwrap()).await, "one\n");
        assert_eq!(turns.available_permits(), 1);
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
        let (scope, turns) = (supervisor.scope(), Semaphore::new(1));
        let mut reader =
            Reader::open(scope, &turns, place.clone(), Some(1), plain(None), Some(follow))
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
