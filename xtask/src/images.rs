//! The pod images of the demo and the tests, made here: no registry outside is asked.
//!
//! An image is an OCI layout in a tar: one layer with the workload binary and what a libc expects.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use longshore_tests::lab::{PAUSE_IMAGE, PULLED_IMAGE, WORKLOAD_IMAGE};
use longshore_tests::process::Run;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{paths, sh};

/// Where the workload is in an image.
pub const BINARY: &str = "bin/longshore-workload";

/// Builds the workload and the tars that nodes import, unless the cache has them for this binary.
///
/// # Errors
/// The static build fails: a libc for static linking is missing.
pub fn build() -> Result<Vec<PathBuf>> {
    imported(&build_workload()?)
}

fn imported(workload: &Path) -> Result<Vec<PathBuf>> {
    let pause = ["/bin/longshore-workload", "pause"];
    Ok(vec![
        cached(workload, PAUSE_IMAGE, "pause.tar", &pause, &[])?,
        cached(workload, WORKLOAD_IMAGE, "workload.tar", &pause[..1], &[])?,
    ])
}

/// The image that nodes pull from a registry of the tests. A link makes its layer another one, so
/// that no node has it by the images above.
fn pulled(workload: &Path) -> Result<PathBuf> {
    let link = ("bin/pulled".to_owned(), "longshore-workload");
    cached(workload, PULLED_IMAGE, "pulled.tar", &["/bin/longshore-workload"], &[link])
}

fn cached(
    workload: &Path,
    name: &str,
    file: &str,
    entry_point: &[&str],
    links: &[(String, &str)],
) -> Result<PathBuf> {
    let binary = std::fs::read(workload)?;
    let key = &sha256(&[&binary, include_bytes!("images.rs") as &[u8]].concat())[..16];
    let dir = paths::cache()?.join(format!("images-{key}"));
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(file);
    if !path.exists() {
        let layer = layer(&[(BINARY, &binary)], links)?;
        write(&path, &image(name, &layer, entry_point, &[])?)?;
    }
    Ok(path)
}

/// Complete or not there: a killed run must not leave half an image.
pub fn write(path: &Path, image: &[u8]) -> Result<()> {
    let part = path.with_extension("part");
    std::fs::write(&part, image)?;
    Ok(std::fs::rename(&part, path)?)
}

/// The pods' program, for the host's own libc linked statically.
pub fn build_workload() -> Result<PathBuf> {
    let host = host_triple()?;
    let target_dir = paths::target().join("workload");
    let mut command = sh::cargo("build --quiet --package longshore-workload --profile workload")?;
    command
        // With an explicit target the flag below does not reach build scripts and macros.
        .args(["--target", &host, "--target-dir"])
        .arg(&target_dir)
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    sh::run(command).context("the pods' program must be static: libc6-dev is needed")?;
    Ok(target_dir.join(host).join("workload/longshore-workload"))
}

fn host_triple() -> Result<String> {
    let text = Run::new("rustc").arg("-vV").dir(&paths::root()).check()?;
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc names no host")
}

/// The root file system: programs (path and bytes), links (path and target), users, and the places
/// that a runtime mounts over.
pub fn layer(programs: &[(&str, &[u8])], links: &[(String, &str)]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (dir, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("proc", 0o755),
        ("sys", 0o755),
        ("tmp", 0o1777),
        ("var", 0o755),
    ] {
        let mut header = header(0, mode);
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, format!("{dir}/"), &[] as &[u8])?;
    }
    let passwd = "root:x:0:0:root:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    let group = "root:x:0:\nnobody:x:65534:\n";
    for (path, data) in programs {
        tar.append_data(&mut header(data.len(), 0o755), path, *data)?;
    }
    for (path, target) in links {
        let mut header = header(0, 0o777);
        header.set_entry_type(tar::EntryType::Symlink);
        tar.append_link(&mut header, path, target)?;
    }
    for (path, data, mode) in [
        ("etc/passwd", passwd.as_bytes(), 0o644),
        ("etc/group", group.as_bytes(), 0o644),
        ("etc/hosts", b"127.0.0.1 localhost\n", 0o644),
        ("etc/resolv.conf", b"", 0o644),
    ] {
        tar.append_data(&mut header(data.len(), mode), path, data)?;
    }
    Ok(tar.into_inner()?)
}

/// Same input, same bytes: no owner, no time.
fn header(length: usize, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(length as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    header
}

/// An OCI image layout with one manifest, named so that containerd imports it under `name`.
pub fn image(name: &str, layer: &[u8], entry_point: &[&str], command: &[&str]) -> Result<Vec<u8>> {
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": entry_point,
            "Cmd": command,
            "Env": ["PATH=/bin"],
            "WorkingDir": "/",
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(layer))] },
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut listed = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    listed["annotations"] = json!({ "io.containerd.image.name": name });
    listed["platform"] = json!({ "architecture": architecture(), "os": "linux" });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [listed],
    });
    let mut tar = tar::Builder::new(Vec::new());
    let mut add =
        |path: &str, data: &[u8]| tar.append_data(&mut header(data.len(), 0o644), path, data);
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add("index.json", index.to_string().as_bytes())?;
    for blob in [&config[..], &manifest, layer] {
        add(&format!("blobs/sha256/{}", sha256(blob)), blob)?;
    }
    let mut bytes = tar.into_inner()?;
    bytes.flush()?;
    Ok(bytes)
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({
        "mediaType": media_type,
        "digest": format!("sha256:{}", sha256(blob)),
        "size": blob.len(),
    })
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// In hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where the daemon under test is built from; here because both go into a lab. Its names begin with
/// `kind` and three digits of the checkout's own: labs of two checkouts live side by side.
pub fn lab(
    longshore: &Path,
    runtime: longshore_tests::containerd::Runtime,
    kind: &str,
) -> Result<longshore_tests::lab::Lab> {
    let workload = build_workload()?;
    Ok(longshore_tests::lab::Lab {
        longshore: longshore.to_owned(),
        runtime,
        images: imported(&workload)?,
        pulled_image: pulled(&workload)?,
        workload,
        dir: paths::lab()?,
        prefix: prefix(kind),
    })
}

/// What names of a kind of lab begin with in this checkout.
pub fn prefix(kind: &str) -> String {
    format!("{kind}{}", &sha256(paths::root().as_os_str().as_encoded_bytes())[..3])
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_image_is_the_same_bytes_each_time() {
        let layer = || super::layer(&[("x", b"binary")], &[("bin/y".to_owned(), "/x")]).unwrap();
        let image = |name: &str| super::image(name, &layer(), &["/x"], &["y"]).unwrap();
        assert_eq!(image("localhost/x:1"), image("localhost/x:1"));
        assert_ne!(image("localhost/x:1"), image("localhost/y:1"));
    }
}
