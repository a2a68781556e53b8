//! Last words of a container: its termination message file, or the end of its log (A71).
//!
//! Both files are in the hands of the container, so they are opened beneath a directory of ours,
//! follow no link, and are read to a limit (CVE row 25). Deliberately absent: any other file.

use std::path::Path;

use longshore_proto::cri;

use crate::sys::dir::Dir;

/// Most bytes of a termination message (A71).
const MESSAGE_MAX: u64 = 4096;
/// Most bytes and lines of a log's end (A71).
const LOG_BYTES: usize = 2048;
const LOG_LINES: usize = 80;
/// Enough of the file's end to find [`LOG_BYTES`] of text in lines that carry a time stamp.
const LOG_WINDOW: u64 = 64 << 10;

pub const PATH_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePath";
pub const POLICY_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePolicy";

/// Where containers' files are.
pub struct Roots<'a> {
    pub pods_dir: &'a Path,
    pub logs_dir: &'a Path,
}

/// Text for an ended container; empty where there is none or it cannot be read safely.
pub fn message(roots: &Roots<'_>, status: &cri::ContainerStatus) -> String {
    let text = file_text(roots, status).unwrap_or_default();
    let fall_back = status.annotations.get(POLICY_ANNOTATION).map(String::as_str)
        == Some("FallbackToLogsOnError");
    if text.is_empty() && fall_back && status.exit_code != 0 {
        return log_text(roots, Path::new(&status.log_path)).unwrap_or_default();
    }
    text
}

fn file_text(roots: &Roots<'_>, status: &cri::ContainerStatus) -> Option<String> {
    let path = status.annotations.get(PATH_ANNOTATION)?;
    let mount = status.mounts.iter().find(|mount| mount.container_path == *path)?;
    let data = read_below(roots.pods_dir, Path::new(&mount.host_path), MESSAGE_MAX, false)?;
    Some(String::from_utf8_lossy(&data).into_owned())
}

fn log_text(roots: &Roots<'_>, path: &Path) -> Option<String> {
    let data = read_below(roots.logs_dir, path, LOG_WINDOW, true)?;
    let whole = (data.len() as u64) < LOG_WINDOW;
    Some(end_of_log(&String::from_utf8_lossy(&data), whole))
}

fn read_below(root: &Path, path: &Path, max: u64, tail: bool) -> Option<Vec<u8>> {
    let relative = path.strip_prefix(root).ok()?;
    if !relative.components().all(|c| matches!(c, std::path::Component::Normal(_))) {
        return None;
    }
    let read = Dir::open(root).and_then(|dir| dir.read(relative, max, tail));
    read.inspect_err(|error| tracing::debug!(path = %path.display(), %error, "not read")).ok()
}

/// The last lines of a log in CRI format (`<time> <stream> <P|F> <text>`), without their heads.
/// `whole`: the text starts at a line's start.
fn end_of_log(text: &str, whole: bool) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    if !whole && !lines.is_empty() {
        lines.remove(0);
    }
    let mut out = String::new();
    for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
        let mut parts = line.splitn(4, ' ');
        let (_, _, tag, rest) = (parts.next(), parts.next(), parts.next(), parts.next());
        out.push_str(rest.unwrap_or_default());
        // P: the runtime cut one line in parts.
        if tag != Some("P") {
            out.push('\n');
        }
    }
    let mut from = out.len().saturating_sub(LOG_BYTES);
    while !out.is_char_boundary(from) {
        from += 1;
    }
    out.split_off(from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a71_the_end_of_a_log_has_80_lines_and_2048_bytes_at_most() {
        let line = |n: u32| format!("2026-11-20T00:00:00.000000000Z stderr F line {n}\n");
        let text: String = (0..100).map(line).collect();
        let end = end_of_log(&text, true);
        assert!(end.starts_with("line 20\n") && end.ends_with("line 99\n"), "{end}");
        let long = format!("t stderr F {}\n", "x".repeat(5000));
        assert_eq!(end_of_log(&long, true).len(), LOG_BYTES);
        assert_eq!(end_of_log("t o P ab\nt o F cd\n", true), "abcd\n");
        assert_eq!(end_of_log("cut off\nt o F whole\n", false), "whole\n");
    }

    #[test]
    fn cve_25_a_termination_message_is_never_read_through_a_link_or_a_device() {
        let root = std::env::temp_dir().join(format!("longshore-term-{}", std::process::id()));
        let dir = root.join("uid/containers/app");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(root.join("secret"), "canary").unwrap();
        std::fs::write(dir.join("plain"), "x".repeat(10_000)).unwrap();
        symlink(root.join("secret"), dir.join("link")).unwrap();
        symlink("/proc/self/environ", dir.join("magic")).unwrap();
        nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let roots = Roots { pods_dir: &root, logs_dir: &root };
        let read = |host_path: &Path| {
            let mount = cri::Mount {
                container_path: "/dev/termination-log".into(),
                host_path: host_path.display().to_string(),
                ..Default::default()
            };
            let path = (PATH_ANNOTATION.to_owned(), "/dev/termination-log".to_owned());
            let policy = (POLICY_ANNOTATION.to_owned(), "FallbackToLogsOnError".to_owned());
            message(
                &roots,
                &cri::ContainerStatus {
                    annotations: [path, policy].into(),
                    mounts: vec![mount],
                    exit_code: 1,
                    log_path: dir.join("link").display().to_string(),
                    ..Default::default()
                },
            )
        };
        assert_eq!(read(&dir.join("plain")).len(), 4096);
        for name in ["link", "magic", "fifo", "missing", "../../../secret"] {
            assert_eq!(read(&dir.join(name)), "", "{name}");
        }
        assert_eq!(read(Path::new("/etc/hostname")), "");
        std::fs::remove_dir_all(&root).unwrap();
    }
}
