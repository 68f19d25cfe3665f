//! Development tasks that need more than a command line.

fn main() {}
