# The front door. Each target makes sure of the pinned toolchain, then asks `cargo xtask`.
# Some machines do not let cargo install a toolchain by itself (RUSTUP_AUTO_INSTALL=0).

.PHONY: help build demo test test-all bench lint toolchain
help:
	@echo "make demo      pods, a Service and a NetworkPolicy on this machine, in namespaces of its own (root)"
	@echo "make test      every lane that a change must pass (root)"
	@echo "make build     target/release/longshore"
	@echo "make lint      rustfmt and clippy, warnings are errors"
	@echo "make bench     ratios against the CRI floor, a bare veth pair and a kubelet (root)"
	@echo "make test-all  test, fresh Debian 12 and 13, every supported containerd (root, long)"

build demo test test-all bench lint: toolchain
	@cargo xtask $@ $(ARGS)

toolchain:
	@command -v rustup >/dev/null || { echo "rustup is missing: install it first" >&2; exit 1; }
	@if rustc --version >/dev/null 2>&1; then rustup --quiet toolchain install; \
	else echo "installing the Rust toolchain that rust-toolchain.toml names"; rustup toolchain install; fi
