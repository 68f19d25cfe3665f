//! One host's network as data, what it should be, and the difference.
