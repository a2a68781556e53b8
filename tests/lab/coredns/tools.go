//go:build tools

// Package tools pins what `cargo xtask lab` builds from this module.
package tools

import (
	_ "github.com/coredns/coredns"
)
