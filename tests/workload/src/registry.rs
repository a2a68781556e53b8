//! A registry of one image: pull only, plain HTTP, out of the directory of an OCI layout.
//!
//! One connection for one request, each with a line of its own on standard output. Absent: writing,
//! tokens, lists of tags, ranges.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::Outcome;
use crate::args::Args;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What the layout holds.
#[derive(Debug, PartialEq, Eq)]
struct Image {
    /// `longshore/workload`, without the registry's own address.
    repository: String,
    tag: String,
    /// Of its manifest, in hexadecimal.
    digest: String,
}

pub fn serve(mut args: Args) -> Outcome {
    let dir = PathBuf::from(args.required("LAYOUT")?);
    let port: u16 = args.option("port", 5000)?;
    let index = std::fs::read_to_string(dir.join("index.json"))?;
    let image = Image::of(&index).ok_or("index.json names no image")?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("serves {}:{} on port {port}", image.repository, image.tag);
    let place = Arc::new((image, dir));
    loop {
        let (stream, _) = listener.accept()?;
        let place = Arc::clone(&place);
        std::thread::spawn(move || {
            // A client that went away is its own affair.
            let _ = answer(stream, &place.0, &place.1);
        });
    }
}

impl Image {
    /// Of a layout's index with one manifest.
    fn of(index: &str) -> Option<Self> {
        let value = |key: &str| {
            let (_, rest) = index.split_once(&format!("\"{key}\":\""))?;
            Some(rest.split_once('"')?.0)
        };
        let (_, name) = value("io.containerd.image.name")?.split_once('/')?;
        let (repository, tag) = name.rsplit_once(':')?;
        let digest = value("digest")?.strip_prefix("sha256:")?;
        Some(Self { repository: repository.into(), tag: tag.into(), digest: digest.into() })
    }

    /// The type and the digest of what a path names.
    fn blob<'a>(&'a self, path: &'a str) -> Option<(&'static str, &'a str)> {
        let rest = path.strip_prefix("/v2/")?.strip_prefix(&self.repository)?;
        let (kind, name) = rest.strip_prefix('/')?.split_once('/')?;
        let by_digest = name.strip_prefix("sha256:").filter(|hex| is_digest(hex));
        match kind {
            "manifests" if name == self.tag => Some((MANIFEST, &self.digest)),
            "manifests" => by_digest.map(|digest| (MANIFEST, digest)),
            "blobs" => by_digest.map(|digest| ("application/octet-stream", digest)),
            _ => None,
        }
    }
}

/// Nothing else gets into a path.
fn is_digest(hex: &str) -> bool {
    hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn answer(mut stream: TcpStream, image: &Image, dir: &Path) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let found = image.blob(path).and_then(|(kind, digest)| {
        let file = File::open(dir.join("blobs/sha256").join(digest)).ok()?;
        Some((kind, digest, file))
    });
    println!("{method} {path} {}", if found.is_some() { 200 } else { 404 });
    let Some((kind, digest, mut file)) = found else {
        let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not here"}]}"#;
        return write!(
            stream,
            "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
            body.len(),
            if method == "HEAD" { "" } else { body }
        );
    };
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nDocker-Content-Digest: sha256:{digest}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        file.metadata()?.len()
    )?;
    if method == "GET" {
        std::io::copy(&mut file, &mut stream)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_has_its_one_image_and_nothing_else() {
        let digest = "ab".repeat(32);
        let index = format!(
            r#"{{"manifests":[{{"annotations":{{"io.containerd.image.name":"127.0.0.1:5000/a/b:1"}},"digest":"sha256:{digest}"}}]}}"#
        );
        let image = Image::of(&index).unwrap();
        assert_eq!(image.blob("/v2/a/b/manifests/1"), Some((MANIFEST, &digest[..])));
        let path = format!("/v2/a/b/blobs/sha256:{digest}");
        assert_eq!(image.blob(&path), Some(("application/octet-stream", &digest[..])));
        for absent in [
            "/v2/",
            "/v2/a/b/manifests/2",
            "/v2/a/c/manifests/1",
            "/v2/a/b/blobs/1",
            "/v2/a/b/blobs/sha256:../../index.json",
        ] {
            assert_eq!(image.blob(absent), None, "{absent}");
        }
        assert_eq!(Image::of("{}"), None);
    }
}
