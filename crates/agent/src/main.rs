//! The agent that runs on every node.

fn main() {}
