//! A multi-site cluster in network namespaces of one machine.

fn main() {}
