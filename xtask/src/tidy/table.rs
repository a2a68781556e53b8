//! The import table of ARCHITECTURE.md as data.

/// A room and what it may import beside itself and general libraries.
pub struct Room {
    pub name: &'static str,
    pub may: &'static [&'static str],
}

const fn room(name: &'static str, may: &'static [&'static str]) -> Room {
    Room { name, may }
}

/// In the order of ARCHITECTURE.md. An agreed extra edge has its reason in a comment.
const ROOMS: [Room; 32] = [
    room("abi", &[]),
    room("packet", &["abi"]),
    room("programs", &["packet", "abi"]),
    room("proto", &[]),
    room("core::model", &["proto"]),
    room("core::config", &["core::model"]),
    room("core::pod", &["core::model", "core::config", "proto"]),
    room("core::node", &["core::model", "core::config", "proto"]),
    room("core::net", &["core::model", "core::config"]),
    room("core::standalone", &["core::model", "core::config"]),
    room("core::service", &["core::model", "core::config", "core::image"]),
    room("core::policy", &["core::model", "core::config", "core::image"]),
    room("core::image", &["abi", "core::model"]),
    // The shared vocabulary of addresses and ports; no decision of another room comes with it.
    room("core::oracle", &["core::image", "abi", "core::model"]),
    // Everyone in the agent may read the clock, log, and hand work to the supervisor: those three
    // rooms exist so that nobody does it in another way.
    room("agent::clock", &["core::model"]),
    // Named places to die at, for the kill suite: whoever has steps imports it.
    room("agent::failpoint", &[]),
    room("agent::supervise", &["agent::telemetry"]),
    // Log lines carry a time.
    room("agent::telemetry", &["core::model", "agent::clock"]),
    // Reads map rows by the layout types, which cannot implement aya's `Pod` themselves.
    room("agent::sys", &["abi"]),
    room("agent::tls", &[]),
    room(
        "agent::world",
        // Which objects a pod names decides what is watched.
        &[
            "core::model",
            "core::config",
            "core::pod",
            "core::standalone",
            "agent::clock",
            "agent::supervise",
            "agent::failpoint",
            "agent::telemetry",
        ],
    ),
    room(
        "agent::observe",
        &[
            "proto",
            "agent::sys",
            "core::model",
            "agent::clock",
            "agent::supervise",
            "agent::telemetry",
        ],
    ),
    room(
        "agent::effects",
        // Of the core only the types of actions and plans, never a decision.
        &[
            "proto",
            "agent::sys",
            "core::model",
            "core::config",
            "core::pod::action",
            "core::net",
            "agent::clock",
            "agent::supervise",
            "agent::failpoint",
            "agent::telemetry",
        ],
    ),
    room(
        "agent::dataplane",
        &[
            "agent::sys",
            "core::image",
            "core::model",
            "abi",
            "agent::clock",
            "agent::supervise",
            "agent::failpoint",
            "agent::telemetry",
        ],
    ),
    room(
        "agent::cni",
        &[
            "core::net",
            "core::model",
            "agent::effects",
            "agent::dataplane",
            "agent::sys",
            "agent::clock",
            "agent::supervise",
            "agent::failpoint",
            "agent::telemetry",
        ],
    ),
    room(
        "agent::workers",
        &[
            "core",
            "abi",
            "proto",
            "agent::world",
            "agent::observe",
            "agent::effects",
            "agent::dataplane",
            "agent::supervise",
            "agent::clock",
            "agent::failpoint",
            "agent::telemetry",
        ],
    ),
    room(
        "agent::serve",
        &[
            "core",
            "proto",
            "agent::world",
            "agent::observe",
            "agent::dataplane",
            "agent::tls",
            "agent::clock",
            "agent::supervise",
            "agent::telemetry",
        ],
    ),
    room("agent::app", &["agent", "core", "proto", "abi"]),
    // The command line: starts the daemon, or asks a running one over the admin socket.
    room(
        "agent::cli",
        &[
            "agent::app",
            "agent::serve",
            "agent::dataplane",
            "agent::clock",
            "agent::telemetry",
            "agent::supervise",
            "core",
        ],
    ),
    room("agent::main", &["agent"]),
    room("cni-shim", &[]),
    room("agent::lib", &[]),
];

pub fn rooms() -> &'static [Room] {
    &ROOMS
}

/// Rooms that may use a library which only some may. `None`: not restricted.
pub fn libraries(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        "aya" | "aya_log" => &["agent::dataplane", "agent::sys"],
        "aya_ebpf" | "aya_log_ebpf" => &["programs"],
        "kube" => &["agent::world", "agent::effects", "agent::app"],
        "notify" => &["agent::world"],
        "cgroups_rs" | "rtnetlink" | "nftables" => &["agent::effects"],
        _ => return None,
    })
}

/// The room of a file of the product; `None`: tests, tools, build scripts.
pub fn room_of(path: &str) -> Option<String> {
    let rooted = |prefix: &str, package: &str| {
        let inside = path.strip_prefix(prefix)?;
        let first = inside.split('/').next()?.trim_end_matches(".rs");
        Some(format!("{package}::{first}"))
    };
    for (prefix, name) in [
        ("agent/cni-shim/src/", "cni-shim"),
        ("ebpf/abi/src/", "abi"),
        ("ebpf/packet/src/", "packet"),
        ("ebpf/programs/src/", "programs"),
        ("proto/src/", "proto"),
    ] {
        if path.starts_with(prefix) {
            return Some(name.to_owned());
        }
    }
    if path == "agent/core/src/lib.rs" {
        return None;
    }
    rooted("agent/core/src/", "core").or_else(|| rooted("agent/src/", "agent"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_product_has_a_room_of_the_table() {
        let root = crate::paths::root();
        for source in super::super::source::load(&root).unwrap() {
            let Some(room) = room_of(&source.path) else { continue };
            assert!(
                rooms().iter().any(|entry| entry.name == room),
                "{} is in the room {room}, which the table does not have",
                source.path
            );
        }
    }

    #[test]
    fn what_the_table_allows_exists_in_it() {
        for room in rooms() {
            for may in room.may {
                let known = rooms().iter().any(|other| {
                    other.name == *may
                        || may.starts_with(other.name)
                        || other.name.starts_with(&format!("{may}::"))
                });
                assert!(known, "{} may import {may}, which is no room", room.name);
            }
        }
    }
}
