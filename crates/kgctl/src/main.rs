//! Shows and exports the topology.

fn main() {}
