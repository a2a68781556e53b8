//! Content hashes: names of things that must be the same on every run.

use sha2::{Digest, Sha256};

/// First 64 bits of SHA-256. Callers that give it meaning (classes, groups) also compare the text.
pub fn hash64(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    let mut head = [0; 8];
    head.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(head)
}

/// 128 bits in UUID form, for UIDs made from content (A30).
pub fn uid_of(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let d = hasher.finalize();
    let hex: String = d[..16].iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
}

/// Ten letters and digits for the names of generated objects; no vowels, as Kubernetes does it.
pub fn safe_suffix(text: &str, length: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(length).map(|b| ALPHABET[*b as usize % ALPHABET.len()] as char).collect()
}
