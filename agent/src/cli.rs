//! The command line: roles of the daemon, and questions to a running one.
//!
//! Habits are the kubelet's: `_` is `-` in flags, an unknown flag ends with 1 and the nearest match.
//! Deliberately absent: what a role does. [`Roles`] is given by the wiring.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::serve::client::{ClientError, ask};
use crate::serve::protocol::{FlowQuery, Request, Response};
use crate::serve::render;

pub const STATE_DIR: &str = "/var/lib/longshore";

/// Kubernetes pods, Services and NetworkPolicies from one daemon.
#[derive(Parser, Debug, Clone, PartialEq)]
#[command(name = "longshore", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug, Clone, PartialEq)]
pub enum Command {
    /// Run the pods, Services and NetworkPolicies of a directory, without a control plane
    Standalone(Box<StandaloneArgs>),
    /// Be a node of a cluster: register with its API server and run what is scheduled here
    Node(Box<NodeArgs>),
    /// Show pods, Services, policies and problems (exit 0: all well, 1: degraded, 2: no daemon)
    Status(StatusArgs),
    /// Say why: a pod is not ready, where a Service leads, what happens to a connection
    #[command(subcommand)]
    Explain(Explain),
    /// Show what the dataplane should hold, and what the kernel holds
    #[command(subcommand)]
    Maps(Maps),
    /// Remove everything of ours from a node whose daemon is stopped
    Cleanup(CleanupArgs),
}

/// Flags of `longshore standalone`.
#[derive(Args, Debug, Clone, PartialEq)]
pub struct StandaloneArgs {
    /// Directory of manifests (*.yaml, *.yml, *.json); watched
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    #[command(flatten)]
    pub place: StateDir,
    #[command(flatten)]
    pub common: CommonArgs,
    /// Addresses of pods
    #[arg(long, default_value = "10.85.0.0/16", value_parser = range)]
    pub pod_cidr: IpNet,
}

/// Flags of `longshore node`: the kubelet's names for what they mean there, and ours.
#[derive(Args, Debug, Clone, PartialEq)]
pub struct NodeArgs {
    #[command(flatten)]
    pub place: StateDir,
    #[command(flatten)]
    pub common: CommonArgs,
    /// How to reach the API server as this node (user system:node:NAME)
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// How to reach the API server as the dataplane: a ServiceAccount with the rules of
    /// deploy/rbac.yaml
    #[arg(long)]
    pub dataplane_kubeconfig: Option<PathBuf>,
    /// Directory of pods' volumes and of certificates
    #[arg(long, default_value = "/var/lib/kubelet")]
    pub root_dir: PathBuf,
    /// Labels for the Node when it is registered (key=value,key=value)
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE")]
    pub node_labels: Vec<String>,
}

/// What every role that runs pods is told.
#[derive(Args, Debug, Clone, PartialEq)]
pub struct CommonArgs {
    /// CRI socket of the container runtime [default: containerRuntimeEndpoint of --config, else
    /// unix:///run/containerd/containerd.sock]
    #[arg(long)]
    pub container_runtime_endpoint: Option<String>,
    /// KubeletConfiguration file
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// cgroup below which all pods are [default: cgroupRoot of --config, else /]
    #[arg(long)]
    pub cgroup_root: Option<String>,
    /// Where the runtime reads CNI configuration; ours is put there
    #[arg(long, default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Where the runtime looks for CNI plugins; ours is put there
    #[arg(long, default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// Addresses of Services: the API server's --service-cluster-ip-range [kubeadm's by default]
    #[arg(long, default_value = "10.96.0.0/12", value_parser = range)]
    pub service_cidr: IpNet,
    /// Address of this node [default: the one of the default route]
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// Name of this node [default: the host name]
    #[arg(long, visible_alias = "hostname-override")]
    pub node_name: Option<String>,
    /// Bring the eBPF programs' own messages to the log (slower programs)
    #[arg(long)]
    pub bpf_log: bool,
    /// Log level: 0 warnings, 2 state changes, 4 debug, 5 trace
    #[arg(short, long = "v", value_name = "N", default_value_t = 2)]
    pub verbosity: u8,
}

#[derive(Args, Debug, Clone, PartialEq)]
pub struct StateDir {
    /// The daemon's directory: addresses, checkpoints, sockets, pins
    #[arg(long, default_value = STATE_DIR)]
    pub state_dir: PathBuf,
}

#[derive(Args, Debug, Clone, PartialEq)]
pub struct StatusArgs {
    #[command(flatten)]
    pub place: StateDir,
    #[arg(short, long, value_enum)]
    pub output: Option<Output>,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Wide,
    Json,
}

#[derive(Subcommand, Debug, Clone, PartialEq)]
pub enum Explain {
    /// Why a pod is as it is
    Pod {
        /// NAMESPACE/NAME
        pod: String,
        #[command(flatten)]
        place: StateDir,
    },
    /// Where connections to a Service go
    Service {
        /// NAMESPACE/NAME
        service: String,
        #[command(flatten)]
        place: StateDir,
    },
    /// What happens to a connection, and which policy decides
    Flow {
        /// Pod NAMESPACE/NAME
        #[arg(long, value_name = "POD")]
        from: String,
        /// IP:PORT, or a Service or pod as NAMESPACE/NAME:PORT
        #[arg(long, value_name = "IP|SERVICE:PORT")]
        to: String,
        #[arg(long, default_value = "tcp", value_parser = ["tcp", "udp"], ignore_case = true)]
        proto: String,
        #[command(flatten)]
        place: StateDir,
    },
}

#[derive(Subcommand, Debug, Clone, PartialEq)]
pub enum Maps {
    /// Print the logical image
    Dump {
        /// Print the kernel's rows in the same form instead
        #[arg(long)]
        kernel: bool,
        #[command(flatten)]
        place: StateDir,
    },
    /// Print lines that only one of the two has (exit 1 if there are any)
    Diff {
        #[command(flatten)]
        place: StateDir,
    },
}

/// Flags of `longshore cleanup`: the rest is in the state directory, as the daemon was told it.
#[derive(Args, Debug, Clone, PartialEq)]
pub struct CleanupArgs {
    #[command(flatten)]
    pub place: StateDir,
}

/// What the wiring does for the commands that are not questions.
pub trait Roles {
    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// Why the daemon could not start or go on; printed as the last line.
    fn standalone(&self, args: StandaloneArgs) -> anyhow::Result<()>;
    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// As [`Roles::standalone`].
    fn node(&self, args: NodeArgs) -> anyhow::Result<()>;
    /// # Errors
    /// What could not be removed.
    fn cleanup(&self, args: CleanupArgs) -> anyhow::Result<()>;
}

fn range(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_| "not a CIDR such as 10.96.0.0/16".to_owned())?;
    if net.network() == net.addr() {
        Ok(net)
    } else {
        Err(format!("has host bits; did you mean {}?", net.trunc()))
    }
}

/// `--service_cidr` is `--service-cidr`; values and what follows `--` stay as they are.
fn normalize(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut literal = false;
    let mut one = |arg: OsString| {
        literal |= arg == "--";
        match arg.to_str() {
            Some(text) if !literal && text.starts_with("--") => match text.split_once('=') {
                Some((flag, value)) => format!("{}={value}", flag.replace('_', "-")).into(),
                None => text.replace('_', "-").into(),
            },
            _ => arg,
        }
    };
    args.into_iter().map(&mut one).collect()
}

/// Parses and runs a command line.
pub fn run(args: impl IntoIterator<Item = OsString>, roles: &dyn Roles) -> ExitCode {
    match Cli::try_parse_from(normalize(args)) {
        Ok(cli) => execute(cli.command, roles),
        Err(error) => {
            // Help and version go to stdout and are no failure.
            let code = u8::from(error.use_stderr());
            let _ = error.print();
            ExitCode::from(code)
        }
    }
}

fn execute(command: Command, roles: &dyn Roles) -> ExitCode {
    let done = |result: anyhow::Result<()>| match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    };
    match command {
        Command::Standalone(args) => match needs_root("standalone") {
            Ok(()) => done(roles.standalone(*args)),
            Err(error) => done(Err(error)),
        },
        Command::Node(args) => match needs_root("node") {
            Ok(()) => done(roles.node(*args)),
            Err(error) => done(Err(error)),
        },
        Command::Cleanup(args) => match needs_root("cleanup") {
            Ok(()) => done(roles.cleanup(args)),
            Err(error) => done(Err(error)),
        },
        Command::Status(args) => status(&args),
        Command::Explain(what) => explain(what),
        Command::Maps(Maps::Dump { kernel, place }) => text(&place, &Request::Maps { kernel }),
        Command::Maps(Maps::Diff { place }) => maps_diff(&place),
    }
}

fn needs_root(command: &str) -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    anyhow::bail!(
        "longshore {command} must run as root (network namespaces, mounts and eBPF need it): try `sudo longshore {command} …`"
    )
}

/// The daemon did not answer: 2, as for `status`.
fn unreachable(error: &ClientError) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(2)
}

fn refused(message: &str) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::FAILURE
}

/// A closed pipe (`longshore status | head`) is the reader's choice.
fn print(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
}

fn status(args: &StatusArgs) -> ExitCode {
    match ask(&args.place.state_dir, &Request::Status) {
        Ok(Response::Status(status)) => {
            print(&match args.output {
                Some(Output::Json) => {
                    serde_json::to_string_pretty(&status).unwrap_or_default() + "\n"
                }
                other => render::status(&status, other == Some(Output::Wide)),
            });
            ExitCode::from(u8::from(!status.healthy))
        }
        Ok(Response::Error(message)) => refused(&message),
        Ok(_) => refused("the daemon answered something else; are both of the same version?"),
        Err(error) => unreachable(&error),
    }
}

fn explain(what: Explain) -> ExitCode {
    match what {
        Explain::Pod { pod, place } => text(&place, &Request::ExplainPod { pod }),
        Explain::Service { service, place } => text(&place, &Request::ExplainService { service }),
        Explain::Flow { from, to, proto, place } => {
            let query = FlowQuery { from, to, protocol: proto.to_ascii_lowercase() };
            text(&place, &Request::ExplainFlow(query))
        }
    }
}

fn text(place: &StateDir, request: &Request) -> ExitCode {
    match fetch(place, request) {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

fn fetch(place: &StateDir, request: &Request) -> Result<String, ExitCode> {
    match ask(&place.state_dir, request) {
        Ok(Response::Text(text)) => Ok(text),
        Ok(Response::Error(message)) => Err(refused(&message)),
        Ok(_) => Err(refused("the daemon answered something else; are both of the same version?")),
        Err(error) => Err(unreachable(&error)),
    }
}

fn maps_diff(place: &StateDir) -> ExitCode {
    let wanted = fetch(place, &Request::Maps { kernel: false });
    let kernel = fetch(place, &Request::Maps { kernel: true });
    match (wanted, kernel) {
        (Ok(wanted), Ok(kernel)) => {
            let lines = diff(&wanted, &kernel);
            print(&lines);
            ExitCode::from(u8::from(!lines.is_empty()))
        }
        (Err(code), _) | (_, Err(code)) => code,
    }
}

/// Lines that only one side has: `-` is missing in the kernel, `+` should not be there.
fn diff(wanted: &str, kernel: &str) -> String {
    let count = |text: &str| {
        let mut lines = std::collections::BTreeMap::<String, i64>::new();
        for line in text.lines() {
            *lines.entry(line.to_owned()).or_default() += 1;
        }
        lines
    };
    let (wanted, kernel) = (count(wanted), count(kernel));
    let mut out = String::new();
    for line in wanted.keys().chain(kernel.keys()).collect::<std::collections::BTreeSet<_>>() {
        let more = wanted.get(line).unwrap_or(&0) - kernel.get(line).unwrap_or(&0);
        let sign = if more > 0 { "- " } else { "+ " };
        for _ in 0..more.abs() {
            out.push_str(&format!("{sign}{line}\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        let args = line.split(' ').map(OsString::from);
        Cli::try_parse_from(normalize(args)).map(|cli| cli.command)
    }

    fn standalone(line: &str) -> StandaloneArgs {
        match parse(line) {
            Ok(Command::Standalone(args)) => *args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn cli_standalone_has_kubelet_habits() {
        let args = standalone("longshore standalone /m");
        assert_eq!(args.place.state_dir, PathBuf::from(STATE_DIR));
        let common = args.common;
        assert_eq!((common.container_runtime_endpoint, common.cgroup_root), (None, None));
        assert_eq!(
            (args.pod_cidr.to_string(), common.verbosity, common.bpf_log),
            ("10.85.0.0/16".to_owned(), 2, false)
        );
        let all = "longshore standalone /m --state_dir=/s_d --container_runtime_endpoint unix:///c.sock --config /k_c --cgroup-root /x \
                   --cni-conf-dir /a --cni_bin_dir /b --pod-cidr 10.1.0.0/24 --service_cidr 10.2.0.0/24 --node-ip 192.0.2.1 --hostname_override n --bpf_log --v=4";
        let args = standalone(&all.split_whitespace().collect::<Vec<_>>().join(" "));
        assert_eq!(args.place.state_dir, PathBuf::from("/s_d"), "values keep their underscores");
        let common = args.common;
        assert_eq!(common.config, Some(PathBuf::from("/k_c")));
        assert_eq!(
            (common.node_name.as_deref(), common.verbosity, common.bpf_log),
            (Some("n"), 4, true)
        );
        for flag in ["-v=5", "-v5", "--v=5"] {
            assert_eq!(standalone(&format!("longshore standalone /m {flag}")).common.verbosity, 5);
        }
    }

    #[test]
    fn cli_node_takes_the_kubelets_flags() {
        let line = "longshore node --kubeconfig=/k --dataplane_kubeconfig /d --config=/c --root-dir=/r \
                    --hostname-override=n1 --node-ip=192.0.2.1 --node-labels=a=b,c/d=e \
                    --container-runtime-endpoint=unix:///c.sock --v=4 --state-dir /s --cgroup-root /n";
        let words = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let Ok(Command::Node(args)) = parse(&words) else { panic!("{:?}", parse(&words)) };
        assert_eq!(args.node_labels, ["a=b", "c/d=e"]);
        assert_eq!(args.root_dir, PathBuf::from("/r"));
        assert_eq!(args.common.node_name.as_deref(), Some("n1"));
        assert_eq!((args.common.verbosity, args.dataplane_kubeconfig), (4, Some("/d".into())));
        let bare = parse("longshore node --kubeconfig /k").unwrap();
        let Command::Node(bare) = bare else { panic!("{bare:?}") };
        assert_eq!(bare.root_dir, PathBuf::from("/var/lib/kubelet"));
    }

    #[test]
    fn cli_mistakes_say_what_is_near() {
        for (line, want) in [
            ("longshore standalone /m --service-cdr 10.0.0.0/8", "--service-cidr"),
            ("longshore standalone /m --pod-cidr 10.0.0.1/8", "did you mean 10.0.0.0/8?"),
            ("longshore standalone", "<DIR>"),
            ("longshore staus", "status"),
            ("longshore node", "--kubeconfig"),
            ("longshore node --kubeconfig /k --node-lables a=b", "--node-labels"),
            ("longshore explain flow --from a", "--to"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.use_stderr() && error.to_string().contains(want), "{line}: {error}");
        }
    }

    #[test]
    fn cli_questions_parse_with_the_state_dir_at_the_end() {
        for line in [
            "longshore status -o wide --state-dir /s",
            "longshore status --state-dir /s -o json",
            "longshore explain pod demo/web --state-dir /s",
            "longshore explain service demo/web --state-dir /s",
            "longshore explain flow --from demo/a --to demo/web:80 --proto UDP --state-dir /s",
            "longshore maps dump --kernel --state-dir /s",
            "longshore maps diff --state-dir /s",
            "longshore cleanup --state-dir /s",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn cli_a_daemon_that_is_down_is_named_with_how_to_start_it() {
        let error = ask(std::path::Path::new("/nowhere"), &Request::Status).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(
                "is it running? Start it with `longshore standalone DIR --state-dir /nowhere`"
            ),
            "{text}"
        );
    }

    #[test]
    fn maps_diff_shows_what_one_side_has() {
        assert_eq!(diff("a\nb\nb\n", "a\nb\nc\n"), "- b\n+ c\n");
        assert_eq!(diff("a\n", "a\n"), "");
    }
}
