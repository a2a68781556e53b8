//! An own containerd beside whatever the machine runs: own root, state, sockets, runc root.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};

use crate::ctr::Ctr;
use crate::netns::Netns;
use crate::pid::Identity;
use crate::process::{Child, Run, kill_all, processes, wait_for};

/// Binaries of one containerd and one runc, unpacked somewhere.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Holds `containerd`, `containerd-shim-runc-v2` and `ctr`.
    pub bin_dir: PathBuf,
    pub runc: PathBuf,
    /// `1.6.20`
    pub version: String,
}

impl Runtime {
    /// Reads the version from the binary itself.
    ///
    /// # Errors
    /// It does not run on this machine, e.g. for want of a library.
    pub fn new(bin_dir: PathBuf, runc: PathBuf) -> Result<Self> {
        let text = Run::new(bin_dir.join("containerd")).arg("--version").check()?;
        Run::new(&runc).arg("--version").check()?;
        // "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3"
        let word = text.split_whitespace().nth(2).unwrap_or_default();
        let version: String = word
            .trim_start_matches('v')
            .chars()
            .take_while(|letter| letter.is_ascii_digit() || *letter == '.')
            .collect();
        if version.is_empty() {
            bail!("no version in `containerd --version`: {text}");
        }
        Ok(Self { bin_dir, runc, version })
    }

    fn major(&self) -> u32 {
        self.version.split('.').next().and_then(|word| word.parse().ok()).unwrap_or(2)
    }

    fn snapshotter(dir: &Path) -> &'static str {
        match statfs(dir) {
            // Overlay on overlay is refused by the kernel; a machine in a container is like that.
            Ok(stat) if stat.filesystem_type() == OVERLAYFS_SUPER_MAGIC => "native",
            _ => "overlayfs",
        }
    }
}

/// Where an instance lives and what it uses.
#[derive(Clone, Debug)]
pub struct Place {
    /// Everything of it is below this directory.
    pub dir: PathBuf,
    pub cni_conf_dir: PathBuf,
    pub cni_bin_dir: PathBuf,
    pub sandbox_image: String,
}

/// A running instance; stopped with its shims on drop.
pub struct Containerd {
    runtime: Runtime,
    place: Place,
    child: Child,
    netns: Netns,
    keep: bool,
}

impl Containerd {
    /// Starts it inside `netns` (its streaming port and, through CNI, its sandboxes belong there) and
    /// waits until it answers.
    ///
    /// # Errors
    /// It does not answer in 60 s; the error holds the end of its log.
    pub fn start(runtime: &Runtime, place: &Place, netns: &Netns) -> Result<Self> {
        std::fs::create_dir_all(&place.dir)?;
        for dir in [&place.cni_conf_dir, &place.cni_bin_dir] {
            std::fs::create_dir_all(dir)?;
        }
        let config = place.dir.join("containerd.toml");
        std::fs::write(&config, config_text(runtime, place))?;
        let child = start(runtime, place, netns)?;
        let mut this = Self {
            runtime: runtime.clone(),
            place: place.clone(),
            child,
            netns: netns.view(),
            keep: false,
        };
        this.wait_ready()?;
        Ok(this)
    }

    /// One that an earlier program started and kept.
    pub fn attach(runtime: &Runtime, place: &Place, netns: &Netns, identity: Identity) -> Self {
        let log = place.dir.join("containerd.log");
        Self {
            runtime: runtime.clone(),
            place: place.clone(),
            child: Child::attach(identity, &log, "containerd"),
            netns: netns.view(),
            keep: false,
        }
    }

    /// It goes on when this value is dropped.
    pub fn keep(&mut self) {
        self.child.keep();
        self.keep = true;
    }

    pub fn identity(&self) -> Identity {
        self.child.identity()
    }

    fn wait_ready(&mut self) -> Result<()> {
        let ctr = self.ctr();
        let child = &mut self.child;
        let ready = wait_for("containerd to answer", 60, || {
            if child.exited()?.is_some() {
                bail!("containerd ended");
            }
            Ok(ctr.answers())
        });
        ready.with_context(|| tail(&self.child.log(), 15))
    }

    pub fn socket(&self) -> PathBuf {
        self.place.dir.join("containerd.sock")
    }

    /// As the daemon wants it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub fn pid(&self) -> i32 {
        self.child.pid()
    }

    pub fn log(&self) -> String {
        self.child.log()
    }

    pub fn ctr(&self) -> Ctr {
        Ctr::new(
            self.runtime.bin_dir.join("ctr"),
            self.socket(),
            Runtime::snapshotter(&self.place.dir),
        )
    }

    /// The shims of this instance only: pid and command line.
    pub fn shims(&self) -> Vec<(i32, String)> {
        shims(&self.place.dir)
    }

    /// Shims that containerd itself has forgotten, and that no call reaches: it lists neither sandbox
    /// nor container of them. RunPodSandbox told nobody of such a sandbox, because its caller died while
    /// it was under way (seen with 1.6, 2.1.9 and 2.4.2, in many words); or the caller died in a
    /// StartContainer, whose container the shim still counts (2.4.2). All others are somebody's leak.
    ///
    /// # Errors
    /// containerd does not answer.
    pub fn forgotten_shims(&self) -> Result<Vec<String>> {
        let listed = self.ctr().run().args(["containers", "ls", "-q"]).check()?;
        let (listed, log) = (listed.lines().collect::<Vec<_>>(), self.log());
        let lines = self.shims().into_iter().map(|(_, line)| line);
        let unlisted = lines.filter(|line| shim_id(line).is_some_and(|id| !listed.contains(&id)));
        let is_forgotten = |line: &String| {
            shim_id(line)
                .is_some_and(|id| was_never_told(&log, id) || keeps_a_cancelled_start(&log, id))
        };
        Ok(unlisted.filter(is_forgotten).collect())
    }

    /// containerd goes away and comes back; its containers go on.
    pub fn restart(&mut self) -> Result<()> {
        self.stop_daemon()?;
        self.child = start(&self.runtime, &self.place, &self.netns)?;
        self.wait_ready()
    }

    /// Only containerd: what it started goes on.
    pub fn stop_daemon(&mut self) -> Result<()> {
        self.child.stop(10).map(drop)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let _ = self.child.stop(5);
        kill_all(self.shims().into_iter().map(|(pid, _)| pid));
    }
}

fn start(runtime: &Runtime, place: &Place, netns: &Netns) -> Result<Child> {
    let bin_dir = &runtime.bin_dir;
    let path = std::env::var("PATH").unwrap_or_default();
    netns
        .run(&bin_dir.join("containerd").to_string_lossy())
        .arg("-c")
        .arg(place.dir.join("containerd.toml"))
        .env("PATH", format!("{}:{path}", bin_dir.display()))
        .own_group()
        .recorded(record(&place.dir))
        .start(&place.dir.join("containerd.log"))
}

/// The file with each containerd that was started in that directory.
pub fn record(dir: &Path) -> PathBuf {
    dir.join("processes")
}

/// Of the containerd in that directory: each has its socket as `-address`.
pub fn shims(dir: &Path) -> Vec<(i32, String)> {
    let socket = dir.join("containerd.sock").display().to_string();
    processes(|line| is_shim_of(line, &socket))
}

fn is_shim_of(line: &str, socket: &str) -> bool {
    let mut words = line.split(' ');
    words.next().is_some_and(|program| program.ends_with("/containerd-shim-runc-v2"))
        && words.any(|word| word == "-address")
        && words.next() == Some(socket)
}

/// The sandbox of a shim, by its command line.
fn shim_id(line: &str) -> Option<&str> {
    line.split(' ').skip_while(|word| *word != "-id").nth(1)
}

/// No answer had this sandbox in it, and nobody ever asked for its end.
fn was_never_told(log: &str, id: &str) -> bool {
    let told = [format!("{TOLD} \\\"{id}\\\""), format!("StopPodSandbox for \\\"{id}\\\"")];
    log.contains(TOLD) && !told.iter().any(|words| log.contains(words))
}

/// What every containerd logs of a RunPodSandbox that worked.
const TOLD: &str = "returns sandbox id";

/// The log says that a container was made in this sandbox whose start ended with its caller while
/// the shim made the task.
fn keeps_a_cancelled_start(log: &str, id: &str) -> bool {
    let within = format!("CreateContainer within sandbox \\\"{id}\\\"");
    let made = log.lines().filter(|line| line.contains(&within));
    let containers = made.filter_map(|line| line.split("returns container id \\\"").nth(1));
    containers.filter_map(|rest| rest.split('\\').next()).any(|container| {
        let failed = format!("StartContainer for \\\"{container}\\\" failed");
        log.lines().any(|line| {
            line.contains(&failed)
                && (line.contains("context canceled") || line.contains("signal: killed"))
        })
    })
}

/// Unmounts everything below `dir`, innermost first.
pub fn unmount_below(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(|at| PathBuf::from(at.replace("\\040", " ")))
        .filter(|at| at.starts_with(dir))
        .collect();
    for at in below.iter().rev() {
        let _ = nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH);
    }
}

pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Version 2 of the configuration for containerd 1.x, version 3 for 2.x.
fn config_text(runtime: &Runtime, place: &Place) -> String {
    let dir = place.dir.display();
    let snapshotter = Runtime::snapshotter(&place.dir);
    let head = format!(
        r#"root = "{dir}/root"
state = "{dir}/state"
[grpc]
  address = "{dir}/containerd.sock"
[ttrpc]
  address = "{dir}/containerd.ttrpc.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
"#
    );
    // A machine without CAP_SYS_RESOURCE cannot lower oom_score_adj: runc would fail every pod.
    let body = if runtime.major() < 2 { V2 } else { V3 };
    let body = body
        .replace("@DIR@", &dir.to_string())
        .replace("@SNAPSHOTTER@", snapshotter)
        .replace("@SANDBOX@", &place.sandbox_image)
        .replace("@CNI_CONF@", &place.cni_conf_dir.to_string_lossy())
        .replace("@CNI_BIN@", &place.cni_bin_dir.to_string_lossy())
        .replace("@RUNC@", &runtime.runc.to_string_lossy());
    let version = if runtime.major() < 2 { 2 } else { 3 };
    format!("version = {version}\n{head}{body}")
}

const V2: &str = r#"[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "@SANDBOX@"
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "@CNI_BIN@"
    conf_dir = "@CNI_CONF@"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "@SNAPSHOTTER@"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "@RUNC@"
        Root = "@DIR@/runc"
        SystemdCgroup = false
"#;

const V3: &str = r#"[plugins.'io.containerd.nri.v1.nri']
  disable = true
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "@SNAPSHOTTER@"
  use_local_image_pull = true
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "@SANDBOX@"
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["@CNI_BIN@"]
    conf_dir = "@CNI_CONF@"
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        BinaryName = "@RUNC@"
        Root = "@DIR@/runc"
        SystemdCgroup = false
[plugins.'io.containerd.grpc.v1.cri']
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_belongs_to_the_containerd_whose_socket_is_its_address() {
        let line = "/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id abc -address /x.sock";
        assert!(is_shim_of(line, "/x.sock"));
        assert!(!is_shim_of(line, "/y.sock"));
        assert!(!is_shim_of("vi -address /x.sock", "/x.sock"));
        assert!(!is_shim_of("less /usr/bin/containerd-shim-runc-v2 /x.sock", "/x.sock"));
    }

    #[test]
    fn f20_only_a_call_that_was_cut_off_excuses_a_shim() {
        let line = "/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id abc -address /x.sock";
        assert_eq!(shim_id(line), Some("abc"));
        // 1.6 and 2.4.
        let old =
            r#"msg="RunPodSandbox for &PodSandboxMetadata{Name:web,} returns sandbox id \"abc\"""#;
        let new = r#"msg="RunPodSandbox for name:\"web\" uid:\"u\" returns sandbox id \"abc\"""#;
        for told in [old, new] {
            assert!(!was_never_told(told, "abc"));
            assert!(was_never_told(told, "def"));
            let ended = r#"msg="StopPodSandbox for \"def\"""#;
            assert!(!was_never_told(&format!("{told}\n{ended}"), "def"), "somebody knew it");
        }
        assert!(!was_never_told("", "def"), "a log in words that are not known excuses nobody");
        let made = r#"msg="CreateContainer within sandbox \"abc\" for name:\"main\" returns container id \"c1\"""#;
        let failed = r#"msg="StartContainer for \"c1\" failed" error="rpc error: code = Unknown desc = failed to create containerd task: failed to create shim task: context canceled""#;
        assert!(keeps_a_cancelled_start(&format!("{made}\n{failed}"), "abc"));
        assert!(!keeps_a_cancelled_start(&format!("{made}\n{failed}"), "c1"));
        assert!(!keeps_a_cancelled_start(made, "abc"));
        let other = failed.replace("c1", "c2");
        assert!(!keeps_a_cancelled_start(&format!("{made}\n{other}"), "abc"));
        let refused = failed.replace("context canceled", "no such file");
        assert!(!keeps_a_cancelled_start(&format!("{made}\n{refused}"), "abc"));
    }
}
