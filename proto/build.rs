//! Compiles the vendored CRI protocol, and a few calls of containerd's, with protox: no protoc on the
//! machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=cri/api.proto");
    println!("cargo::rerun-if-changed=containerd");
    let files = protox::compile(
        ["cri/api.proto", "containerd/tasks.proto", "containerd/containers.proto"],
        ["cri", "containerd"],
    )?;
    let mut builder = tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // Same bytes and same text for the same message: the core compares and prints them.
        .btree_map(".")
        // prost prints every field, and this one holds registry passwords (see `lib.rs`).
        .skip_debug(["runtime.v1.AuthConfig"]);
    // Clients and servers exist only with the feature; the messages always do.
    for package in
        ["runtime.v1", "containerd.services.containers.v1", "containerd.services.tasks.v1"]
    {
        builder = builder
            .client_mod_attribute(package, "#[cfg(feature = \"grpc\")]")
            .server_mod_attribute(package, "#[cfg(feature = \"server\")]");
    }
    builder.compile_fds(files)?;
    Ok(())
}
