//go:build tools

// Package tools pins what `cargo xtask lab` builds from this module.
package tools

import (
	_ "go.etcd.io/etcd/server/v3"
)
