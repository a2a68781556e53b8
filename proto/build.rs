//! Compiles the vendored CRI protocol, and one call of containerd's, with protox: no protoc on the
//! machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=cri/api.proto");
    println!("cargo::rerun-if-changed=containerd/tasks.proto");
    let files =
        protox::compile(["cri/api.proto", "containerd/tasks.proto"], ["cri", "containerd"])?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // Clients and servers exist only with the feature; the messages always do.
        .client_mod_attribute("runtime.v1", "#[cfg(feature = \"grpc\")]")
        .server_mod_attribute("runtime.v1", "#[cfg(feature = \"server\")]")
        .client_mod_attribute("containerd.services.tasks.v1", "#[cfg(feature = \"grpc\")]")
        .server_mod_attribute("containerd.services.tasks.v1", "#[cfg(feature = \"server\")]")
        // Same bytes and same text for the same message: the core compares and prints them.
        .btree_map(".")
        // prost prints every field, and this one holds registry passwords (see `lib.rs`).
        .skip_debug(["runtime.v1.AuthConfig"])
        .compile_fds(files)?;
    Ok(())
}
