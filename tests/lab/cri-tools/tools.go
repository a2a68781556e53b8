//go:build tools

// Package tools pins what `cargo xtask lab` builds from this module.
package tools

import (
	_ "sigs.k8s.io/cri-tools/cmd/crictl"
)
