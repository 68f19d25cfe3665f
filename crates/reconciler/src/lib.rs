//! The agent's decisions as a state machine without input or output.
