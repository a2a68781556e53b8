//! rustfmt and clippy for the host's packages and for the eBPF programs; warnings are errors.

use anyhow::Result;

use crate::{paths, setup, sh};

pub fn all() -> Result<()> {
    sh::run(sh::cargo("fmt --all --check")?)?;
    let mut host = sh::cargo(
        "clippy --quiet --locked --workspace --exclude longshore-ebpf --all-targets \
         --features longshore-tests/cri -- -D warnings",
    )?;
    // The objects are not looked at by clippy: no eBPF build for them.
    host.env("LONGSHORE_SKIP_EMBED", "1");
    // Its own directory: a build script with other variables would rebuild everything each time.
    host.env("CARGO_TARGET_DIR", paths::target().join("lint"));
    sh::run(host)?;
    setup::linker::ensure()?;
    let arch = format!("bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    let mut programs = sh::cargo(
        "clippy --quiet --release --package longshore-ebpf --bins --target bpfel-unknown-none \
         -Zbuild-std=core -- -D warnings",
    )?;
    programs
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", paths::target().join("lint-ebpf"))
        .env("CARGO_ENCODED_RUSTFLAGS", ["--cfg", &arch, "-Ctarget-cpu=v3"].join("\x1f"));
    sh::run(programs)
}
