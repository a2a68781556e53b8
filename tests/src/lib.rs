//! Shared ground of the test lanes.
